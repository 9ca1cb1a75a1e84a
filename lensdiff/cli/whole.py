"""Everything about a pair: the demo, a run from a config, its report again, the paper's tables, annotation."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lensdiff.cli import options as o
from lensdiff.cli.output import Terminal, complain, print_frame, printable, write, write_notice

TOY_PAIR = Path(__file__).parents[1] / "inputs" / "data" / "toy_pair"
ABOUT = (
    "The base is a small language model (a Llama) of dictionary text and of passages that are quoted, listed, spelled, "
    "asked and denied; the tuned model was trained on from its weights to do so when it is asked."
)
DEMO = {
    "about": ABOUT,
    "max_new_tokens": 40,  # the pair's longest right answers; a base model that does not stop is cut here
    # what a verdict needs
    "controls": {"instruction_use": 59, "heads": 59, "mlp": 59, "value_rotation": 59, "attribute": 3},
    "instruction_use": {"texts": ["reference"], "draws": 1},  # what 59 controls of two kinds have time for
    "attribute": {"curve_prompts": 2, "curve_tokens": 16},
    "templates": ["raw", "chat"],
    "template_effects": {"draws": 2, "max_prompts": 8},
    "knock_out": {"draws": 2, "max_tokens": 16},
    "residual_stream": {"max_tokens": 24},
    "layer_similarity": {"max_tokens": 24},
    "directions": {"max_tokens": 16},
    "activation_difference": {"max_texts": 256, "effect_texts": 12},
    "heads": {"layers_per_group": 1},
    "mlp": {"n_components": 64},
}


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("lensdiff.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented example of a config for run."""
    if _is_there(path) and not force:
        raise typer.BadParameter(f"{path} is there already; --force writes over it")
    from lensdiff.pipeline.example import example

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(example(), encoding="utf-8")
    except OSError as error:  # nothing heavy is imported for a config: `put_text` would
        raise typer.BadParameter(f"{str(path)[-200:]} cannot be written: {error.strerror or error}") from None
    write(str(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def run(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="What to do; `lensdiff init` writes an example.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Results go here instead of the config's out.")] = None,
    workers: o.Workers = None,
    engine: o.Engine = None,
    quiet: o.Quiet = False,
) -> None:
    """Every analysis that a config asks for, and a report.

    A run that was stopped goes on where it was.
    """
    from lensdiff.pipeline.toml import load_config

    changes: dict[str, Any] = {} if out is None else {"out": str(out.absolute())}
    changes |= {} if workers is None else {"workers": workers}
    changes |= {} if engine is None else {"engine": o.engine(engine)}
    _whole(load_config(config).model_copy(update=changes), quiet)


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The config of the run.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    workers: o.Workers = None,
) -> None:
    """Time, memory and disk of a run by step, before anything is loaded.

    It reads the headers of the checkpoints, and times this machine for some seconds.
    """
    from lensdiff.pipeline import door
    from lensdiff.pipeline.toml import load_config

    read = load_config(config).model_copy(update={} if workers is None else {"workers": workers})
    door.check(read)  # a mistake is told at once: what follows imports for seconds
    import json

    from lensdiff.pipeline.ahead import plan as planned
    from lensdiff.pipeline.estimate import UNKNOWN

    found = planned(read)
    if as_json:
        write(json.dumps(found.to_dict(), indent=2))
        return
    print_frame("What each step takes, by one process", found.shown(), rows=1000)
    for line in (*found.told(), UNKNOWN):
        write(printable(line))
    if read.path(read.out).exists():
        write(f"{printable(read.path(read.out))} is there: what it holds of this run already is not done again")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Results and report go here.")] = Path("lensdiff-demo"),
    workers: o.Workers = None,
    quiet: o.Quiet = False,
) -> None:
    """Every analysis of the shipped toy pair, and a report.

    It needs no network and takes about three minutes on a laptop. By default it has a worker a core, up to 4.
    """
    from lensdiff.pipeline.toml import check_config

    models = {"base": str(TOY_PAIR / "base"), "tuned": str(TOY_PAIR / "tuned")}
    own = {"prompts": str(TOY_PAIR / "prompts.jsonl"), "out": str(out), "workers": workers or min(4, _cores())}
    _whole(check_config(models | own | DEMO), quiet)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _whole(config: Any, quiet: bool) -> None:
    from lensdiff.pipeline import door

    door.check(config)  # a mistake is told at once: what follows imports for seconds
    terminal = Terminal(quiet=quiet)
    terminal.begins(config)
    from lensdiff.pipeline.changed import as_text
    from lensdiff.pipeline.execute import execute
    from lensdiff.pipeline.report import Report
    from lensdiff.pipeline.shortfall import failed, not_possible

    with terminal.watching():
        store = execute(config, listener=terminal, estimate=not quiet)
        report = Report(store)
        path = report.save()
    write_notice(store)
    if not quiet and (text := as_text(report.summary())):
        write(printable(text))
    write(str(path))
    steps = store.manifest.steps
    none = {name: state.note for name, state in steps.items() if state.state == "failed"}
    lines = [f"{name} could not be done: {note}" for name, note in none.items()]
    lines += failed(store, [name for name in steps if name not in none])
    for line in (*not_possible(store, steps), *lines):
        complain(line)
    if lines:
        raise typer.Exit(1)


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results directory.")],
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; by default DIR/report.html.")] = None,
) -> None:
    """The report again, from a results directory."""
    store = existing(directory)
    from lensdiff.pipeline.report import Report

    path = Report(store).save(out)
    write_notice(store)
    write(str(path))


def existing(directory: Path) -> Any:
    from lensdiff.results import InputError, ResultStore

    store = ResultStore(directory)
    if not store.exists():
        raise InputError(f"{directory} is no results directory of lensdiff: it has no manifest.json")
    return store


def published(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A clone of the authors' repository.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    robustness: Annotated[bool, typer.Option("--robustness", help="Also Table 2 under other choices.")] = False,
) -> None:
    """The paper's Tables 1 and 2, from its released files."""
    import json

    from lensdiff.analyses.published.tables import published_tables
    from lensdiff.analyses.published.tables import robustness as variants
    from lensdiff.inputs.published import load_published

    released = load_published(directory)
    tables = published_tables(released)
    other = variants(released) if robustness else None
    if as_json:
        found = json.loads(tables.to_json())
        if other is not None:
            found["robustness"] = other.astype(object).where(other.notna(), None).to_dict(orient="records")
        write(json.dumps(found, indent=2))
        return
    print_frame("Tables 1 and 2", tables.to_df(), rows=100)
    if other is not None:
        print_frame("Table 2 under other choices", other, rows=100)
    if tables.not_found:
        from lensdiff.results.numbers import n_of

        complain(f"{n_of(tables.not_found, 'instruction span')} not found among the tokens of a prompt")
