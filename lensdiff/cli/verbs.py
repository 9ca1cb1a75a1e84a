"""One command per analysis, from the analysis itself: its help, its options and their defaults.

Each command is a run with one analysis: a table on the terminal, its tables as Parquet and a page in the output
directory. Stopped, it goes on where it was; with other options it does again what depends on them.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from lensdiff.analyses import ANALYSES
from lensdiff.cli import options as o
from lensdiff.cli.output import Terminal, complain, print_frame, write, write_notice
from lensdiff.pipeline.config import ControlOptions, RunConfig
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import are_layers, flag_of

BOTH = "both"
PROMPTS = {"prompt": o.Prompt, "instruction": o.Instruction, "context": o.Context, "response": o.Response}


def command_of(analysis: Analysis[Any]) -> Callable[..., None]:
    """Return the command of an analysis."""

    def command(**given: Any) -> None:
        _run(analysis, given)

    command.__name__ = analysis.name
    command.__doc__ = f"{analysis.question}.\n\n{analysis.more}".rstrip()
    command.__signature__ = inspect.Signature(list(_parameters(analysis)))  # type: ignore[attr-defined]
    return command


def _parameters(analysis: Analysis[Any]) -> Iterator[inspect.Parameter]:
    yield _parameter("base", o.Base, inspect.Parameter.empty)
    yield _parameter("tuned", o.Tuned, inspect.Parameter.empty)
    yield _parameter("out", o.Out, Path(f"lensdiff-{analysis.name.replace('_', '-')}"))
    if "prompts" in analysis.asks:
        for name, kind in PROMPTS.items():
            yield _parameter(name, kind, None)
        yield _parameter("prompts", o.Prompts, None)
        if not analysis.both:
            yield _parameter("template", o.Template, "raw")
    if "words" in analysis.asks:
        yield from _of_config("vocabulary", "vectors")
    if "texts" in analysis.asks:
        yield from _of_config("texts")
    for name, field in analysis.options.model_fields.items():
        yield _option(name, field)
    if "prompts" in analysis.asks:
        yield from _of_config("max_new_tokens")
    if analysis.controls is not None:
        kinds = ControlOptions.model_fields["kinds"].get_default(call_default_factory=True)
        yield _parameter("controls", o.FirstControls if analysis.first_kind else o.Controls, analysis.controls)
        yield _parameter("kinds", o.Kinds, ",".join(kinds))
    if analysis.controls is not None or "prompts" in analysis.asks:
        yield from _of_config("seed")
    yield from _of_config("device", "dtype")
    if not analysis.runs:
        yield _parameter("stream", o.Stream, None)
    yield _parameter("quiet", o.Quiet, False)


def _of_config(*names: str) -> Iterator[inspect.Parameter]:
    """Yield keys of every config as options."""
    for name in names:
        yield _option(name, RunConfig.model_fields[name])


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return a field as an option: a list is a text, joined by commas; a bound is typer's own."""
    default = field.get_default(call_default_factory=True)
    kind, is_list = _kind(field.annotation)
    if is_list:
        kind, default = str, None if default is None else ",".join(map(str, default))
    elif kind is not bool and default is not None:
        kind = type(default)
    lowest = next((item.ge for item in field.metadata if getattr(item, "ge", None) is not None), None)
    help = (field.description or "") + (" Joined by commas." if is_list else "")
    if are_layers(field):
        help = f"{(field.description or '').rstrip('.')}; like 0,1,5-8."
    bounds: dict[str, Any] = {} if lowest is None or is_list else {"min": lowest}
    flag = flag_of(name, field)
    flags = [f"{flag}/--no-{flag.removeprefix('--')}"] if kind is bool else [flag]
    whole: Any = kind | None if default is None else kind
    return _parameter(name, Annotated[whole, typer.Option(*flags, help=help, **bounds)], default)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the type of a field's values, and whether it is a list of them."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    if get_origin(annotation) is Literal:
        return str, False
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return _kind(inner[0]) if inner else (annotation, False)


def values_of(analysis: Analysis[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a config that a command's options stand for.

    Raises:
        typer.BadParameter: an option cannot be read.
    """
    values: dict[str, Any] = {"analyses": [analysis.name]}
    for name in ("base", "tuned", "max_new_tokens", "seed", "device", "dtype", "vocabulary", "vectors", "texts"):
        if name in given and name not in analysis.options.model_fields:
            values[name] = given[name]
    values["out"] = str(given["out"])
    if given.get("stream") is not None:
        values["stream"] = given["stream"]
    if "prompts" in analysis.asks:
        values |= o.prompt_keys(**{name: given[name] for name in (*PROMPTS, "prompts")})
        values |= _rendered(analysis, given.get("template", BOTH))
    fields = analysis.options.model_fields
    own = {name: _value(name, field, given[name]) for name, field in fields.items() if given[name] is not None}
    if own:
        values[analysis.name] = own
    if analysis.controls is not None:
        values["controls"] = o.controls(given["kinds"], **{analysis.name: given["controls"]})
    return values


def _rendered(analysis: Analysis[Any], template: str) -> dict[str, Any]:
    """Return the keys of a config that say how prompts are rendered; both takes the table of template effects along.

    Raises:
        typer.BadParameter: there is no such rendering, or the table has no measure of the analysis.
    """
    values: dict[str, Any] = {"templates": o.renderings(template)}
    if template == BOTH and not analysis.both:
        if not analysis.effects:
            having = ", ".join(_verb(other) for other in ANALYSES if other.effects)
            raise typer.BadParameter(
                f"--template both sets the numbers of {having} beside each other; give raw or chat to {_verb(analysis)}"
            )
        effects = _beside(analysis, template)[-1]
        values |= {"analyses": [analysis.name, effects.name], effects.name: {"measures": list(analysis.effects)}}
    return values


def _beside(analysis: Analysis[Any], template: str) -> list[Analysis[Any]]:
    """Return the analyses of a command: its own, and what sets both renderings beside each other."""
    both = [other for other in ANALYSES if other.both and other is not analysis]
    return [analysis, *(both if template == BOTH else [])]


def _verb(analysis: Analysis[Any]) -> str:
    return analysis.name.replace("_", "-")


def _value(name: str, field: FieldInfo, given: Any) -> Any:
    kind, is_list = _kind(field.annotation)
    if are_layers(field):
        return o.layer_list(flag_of(name, field), given)
    if not is_list:
        return given
    number, _ = _kind(kind)  # of an item
    if number in (int, float):
        return o.number_list(flag_of(name, field), given, number)
    return [part.strip() for part in given.split(",")]


def _run(analysis: Analysis[Any], given: dict[str, Any]) -> None:
    values = values_of(analysis, given)
    from lensdiff.pipeline import door
    from lensdiff.pipeline.toml import check_config

    config = check_config(values, "the command's options")
    door.check(config, analysis.name)  # a mistake is told at once: what follows imports for seconds
    terminal = Terminal(quiet=given["quiet"])
    terminal.begins(config)
    from lensdiff.pipeline.execute import execute

    with terminal.watching():
        store = execute(config, listener=terminal, command=analysis.name, estimate=not given["quiet"])
    analyses = _beside(analysis, given.get("template", ""))
    whole = [_complain(one, store) for one in analyses]  # each says what it lacks
    is_whole = all(whole)
    _show(analyses, store, is_whole)
    if not is_whole:
        raise typer.Exit(1)


def _complain(analysis: Analysis[Any], store: Any) -> bool:
    """Say what of all that was asked for is not there, and return whether nothing failed.

    Raises:
        InputError: a step failed whole, or the analysis has nothing at all, with the reason of the first: a cause comes
            before what followed from it.
    """
    from lensdiff.pipeline.report import SHARED
    from lensdiff.pipeline.shortfall import failed, not_possible
    from lensdiff.results import InputError

    names = [step.name for step in analysis.steps]
    states = {name: store.step(name) for name in names}
    none = [state.note for state in states.values() if state.state == "failed"]
    if not any(states[name].state == "done" for name in names if name not in SHARED):
        none += [state.note for state in states.values() if state.state == "skipped"]
    if none:
        raise InputError(none[0])
    for line in not_possible(store, names):
        complain(line)
    lines = failed(store, names)
    for line in lines:
        complain(line)
    return not lines


def _show(analyses: Sequence[Analysis[Any]], store: Any, is_whole: bool) -> None:
    """Print the command's tables, put its tables and its page at the top of the directory, and say where they are.

    The command's own analysis is the first.
    """
    from lensdiff.pipeline.report import sections_page
    from lensdiff.results.errors import NotThere
    from lensdiff.steps.found import Found

    write_notice(store)
    for title, summary in [item for analysis in analyses for item in analysis.summaries.items()]:
        try:
            frame = summary(Found(store))
        except NotThere:
            if is_whole:
                raise
            continue  # of what failed; that was said
        print_frame(title, frame)
    names = dict.fromkeys(table.name for analysis in analyses for table in analysis.tables)
    for name in names:
        if store.has_table(name):
            write(str(store.publish(name)))
    verb = _verb(analyses[0])
    write(str(store.write_text(f"{verb}.html", sections_page(store, f"lensdiff {verb}", analyses))))
