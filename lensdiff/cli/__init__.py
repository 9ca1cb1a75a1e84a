"""The `lensdiff` command.

Exit codes: 0 done, 1 failed while working, 2 wrong usage or unusable input. An error is one sentence on standard error;
a traceback comes with `--debug` alone. Nothing large is imported before a command is known to need it.
"""

import os
import sys
from typing import Annotated

import typer

from lensdiff.analyses import ANALYSES
from lensdiff.cli import annotating, whole
from lensdiff.cli.output import complain, logs_shown, write
from lensdiff.cli.series import series
from lensdiff.cli.verbs import command_of

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    name="lensdiff",
    help="See what instruction tuning changed inside a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
OF_PAIRS = (whole.demo, whole.init, whole.plan, whole.run, whole.report, whole.published)
for command in (*OF_PAIRS, annotating.annotate, series):
    app.command()(command)
for analysis in ANALYSES:
    if analysis.done == "asked":
        # given by itself a line of the list is wrapped; taken from the help it would be cut
        app.command(analysis.name.replace("_", "-"), short_help=f"{analysis.question}.")(command_of(analysis))


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        write(f"lensdiff {version('lensdiff')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works after a command too.")
    ] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        with logs_shown():
            app(args=given, prog_name="lensdiff")
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        return _interrupted() if code == INTERRUPTED else code
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader of a pipe is gone: nobody to tell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        return 1
    except Exception as error:
        if debug:
            raise
        complain(sentence(error))
        return 2 if _is_input(error) else 1
    return 0


def _interrupted() -> int:
    complain("stopped; the same command goes on from here")
    return 1


def _is_input(error: BaseException) -> bool:
    from lensdiff.results.errors import InputError

    return isinstance(error, InputError)


def sentence(error: BaseException) -> str:
    """Return an error in one sentence; one that is not about the input says what kind it is."""
    text = str(error).strip().split("\n", 1)[0]
    if _is_input(error) or isinstance(error, OSError):
        return text or type(error).__name__
    return (
        f"{type(error).__name__}: {text} (--debug shows where)"
        if text
        else f"{type(error).__name__} (--debug shows where)"
    )
