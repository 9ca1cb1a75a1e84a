"""`lensdiff series`: one number along a list of models, each kept, so that one more model costs one more run."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from lensdiff.analyses.instruction_use.defaults import DRAWS
from lensdiff.cli import options as o
from lensdiff.cli.output import Terminal, print_frame, write
from lensdiff.defaults import LARGEST_SEED, MAX_NEW_TOKENS
from lensdiff.pipeline.config import RunConfig

SERIES = "series"  # the command, the step that its points are kept under, its table and its page


def series(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL MODEL...", help="Hub names or folders in order; the first is the base."),
    ],
    measure: Annotated[str, typer.Option(help="What is measured, such as instruction_use.use; a wrong one lists all.")],
    out: o.Out = Path("lensdiff-series"),
    prompts: o.Prompts = None,
    draws: Annotated[int, typer.Option(min=1, help="Other prompts whose instructions take a prompt's place.")] = DRAWS,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of the first model's response, where a prompt has no reference.")
    ] = MAX_NEW_TOKENS,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the other prompts.")] = 0,
    device: Annotated[str, typer.Option(help=RunConfig.model_fields["device"].description)] = "auto",
    dtype: Annotated[str, typer.Option(help=RunConfig.model_fields["dtype"].description)] = "float32",
    quiet: o.Quiet = False,
) -> None:
    """One number along checkpoints: training steps, or base, SFT and DPO.

    Models that the directory has are not measured again.
    """
    from lensdiff.analyses.series.measure import Along
    from lensdiff.inputs.prompts import load_prompts
    from lensdiff.models.progress import unseen
    from lensdiff.pipeline.identity import identity_of
    from lensdiff.results import ResultStore
    from lensdiff.stats.result import USUAL_LEVEL

    read = None if prompts is None else load_prompts(prompts)
    options: dict[str, Any] = {"dtype": dtype} | ({} if device == "auto" else {"device": device})
    along = Along(models, measure, read, draws, seed, max_new_tokens, USUAL_LEVEL, options)
    identities = _identities(models)
    asked = [measure, draws, seed, max_new_tokens, device, dtype, [identity_of(prompt) for prompt in along.prompts]]
    store, terminal = ResultStore(out), Terminal(quiet=quiet)
    _check_directory(store)
    with store.writing(), terminal.watching(), unseen(terminal.within):
        store.update(command=SERIES, ended=False)
        lost = {file.partition("/")[2] for file in store.damaged()}
        terminal.begin(SERIES, len(models), 0)
        points, began = [], time.perf_counter()
        for step, identity in enumerate(identities):
            texts = points[0].texts if points else None
            points.append(_point(store, along, step, [*asked, identities[0], identity], texts, lost))
            terminal.advance(SERIES, along.names[step])
        terminal.end(SERIES, time.perf_counter() - began)
        found = along.of(points)
        _show(store, found)
        store.update(ended=True)


def _identities(models: list[str]) -> list[Any]:
    """Return what each model is known by.

    Raises:
        InputError: one is nowhere, or a file of it cannot be read.
    """
    from lensdiff.models.loading.commits import model_identity
    from lensdiff.models.loading.places import place_of

    for model in models:
        place_of(model)
    return [model_identity(model, None) for model in models]


def _check_directory(store: Any) -> None:
    """Refuse the directory of another command: its next run would remove what it does not know.

    Raises:
        InputError: with the command.
    """
    from lensdiff.results import InputError

    if store.exists() and store.manifest.command not in ("", SERIES):
        raise InputError(f"{store.root} holds results of lensdiff {store.manifest.command}: choose another directory")


def _point(store: Any, along: Any, step: int, asked: list[Any], texts: Any, lost: set[str]) -> Any:
    """Return the number of one model, from the directory where it is of the same models, prompts and options."""
    from lensdiff.analyses.series.result import SeriesPoint
    from lensdiff.pipeline.graph import unit_state
    from lensdiff.pipeline.identity import code_identity, digest
    from lensdiff.steps.unit import Unit, name_of

    known = digest([code_identity(), *asked])
    unit = Unit(along.names[step], along.measure.name)
    state = store.step(SERIES).units.get(unit.path)
    if state is not None and state.digest == known and name_of(SERIES, unit) not in lost:
        return store.load_files([name_of(SERIES, unit)], SeriesPoint)
    found = along.point(step, texts)
    store.save_unit(SERIES, unit.path, unit_state(unit, known), found)
    return found


def _show(store: Any, found: Any) -> None:
    """Print the table, write it and the page, and say where they are."""
    from lensdiff.results.manifest import StepState
    from lensdiff.views.show import show

    state = store.step(SERIES)
    store.update(steps=dict(store.manifest.steps) | {SERIES: StepState(wanted=list(state.units), units=state.units)})
    frame = found.to_df()
    print_frame(f"{found.measure}, by step", frame.drop(columns="measure"))
    store.save_table(SERIES, frame)
    write(str(store.publish(SERIES)))
    write(str(store.write_text(f"{SERIES}.html", show(found).html())))
