"""The page of the commands: usage, arguments, options and help of every verb, from the command itself."""

from typing import Any

import typer

from docs.making.markdown import cell, code, page, table
from lensdiff.cli import app

INTRODUCTION = """\
Exit codes: 0 done, 1 failed while working, 2 wrong usage or unusable input. Results go to standard output, progress
and errors to standard error; an error is one sentence, and `--debug` shows its traceback. A command that was stopped
goes on where it was."""


def page_of_commands() -> str:
    """Return the page."""
    whole: Any = typer.main.get_command(app)
    with whole.make_context("lensdiff", [], resilient_parsing=True) as context:
        parts = [INTRODUCTION, "## lensdiff { #lensdiff }", whole.help or "", _given(whole, context, "option")]
        rows = [(f"[`{name}`](#{name})", cell(verb.get_short_help_str(200))) for name, verb in whole.commands.items()]
        parts.append(table(("command", "what it does"), rows))
        for name, verb in whole.commands.items():
            parts += _of(name, verb, context)
    return page("Commands", *parts)


def _of(name: str, verb: Any, parent: Any) -> list[str]:
    context = type(parent)(verb, info_name=name, parent=parent)
    usage = " ".join(verb.collect_usage_pieces(context))
    help = "\n\n".join(" ".join(part.split()) for part in (verb.help or "").split("\n\n"))
    return [
        f"## lensdiff {name} {{ #{name} }}",
        help,
        f"```text\nlensdiff {name} {usage}\n```",
        _given(verb, context, "argument"),
        _given(verb, context, "option"),
    ]


def _given(verb: Any, context: Any, kind: str) -> str:
    """Return the table of a verb's arguments, or of its options."""
    records = [p.get_help_record(context) for p in verb.get_params(context) if p.param_type_name == kind]
    rows = [(code(record[0].replace("|", "\\|")), cell(record[1])) for record in records if record]
    return table((kind, "what it is"), rows) if rows else ""
