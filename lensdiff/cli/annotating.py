"""`lensdiff annotate`: a chat model says what the components of a results directory mean."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lensdiff.cli import options as o
from lensdiff.cli.output import Terminal, print_frame, write, write_notice


def annotate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A results directory with concepts.")],
    model: Annotated[str, typer.Option(help="The annotating model's name, as its server knows it.")],
    base_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server, for example http://127.0.0.1:8000/v1.")
    ] = None,
    api_key_variable: Annotated[
        str, typer.Option(help="The environment variable that holds the server's key.")
    ] = "OPENAI_API_KEY",
    seeds: Annotated[int, typer.Option(min=1, help="Annotations of each component.")] = 5,
    components: Annotated[int | None, typer.Option(min=1, help="Only the first of each layer.")] = None,
    layers: o.Layers = None,
    top_words: Annotated[int, typer.Option(min=1, help="Words shown of a component.")] = 15,
    response_format: Annotated[
        str, typer.Option(help="json_schema, or what else the server understands: json_object, none.")
    ] = "json_schema",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    quiet: o.Quiet = False,
) -> None:
    """What concepts mean, asked of a chat model.

    Every answer is kept: a command that was stopped repeats nothing.
    """
    from lensdiff.analyses.annotate.measure import annotate as ask
    from lensdiff.analyses.annotate.steps import keep
    from lensdiff.analyses.mlp.concepts import MLPConcepts
    from lensdiff.cli.whole import existing
    from lensdiff.results.diff import SIDES
    from lensdiff.steps.found import Found

    store = existing(directory)
    asked: dict[str, Any] = {
        "model": model,
        "base_url": base_url,
        "api_key": os.environ.get(api_key_variable),
        "cache": store.root / "annotation-answers",
        "seeds": range(seeds),
        "layers": o.layer_list("--layers", layers),
        "components": components,
        "top_words": top_words,
        "response_format": response_format,
        "concurrency": concurrency,
    }
    terminal = Terminal(quiet=quiet)
    with store.writing():
        with terminal.watching():
            for side in SIDES:
                reach = partial(terminal.reach, f"annotating {side}")
                concepts = Found(store).of_model("concepts", MLPConcepts, side)
                keep(store, side, ask(concepts, **asked, on_progress=reach))
        _finish(store)


def _finish(store: Any) -> None:
    import pandas as pd

    from lensdiff.analyses import ANALYSES
    from lensdiff.analyses.annotate.annotations import Annotations
    from lensdiff.analyses.annotate.steps import finish
    from lensdiff.pipeline.graph import tables_of
    from lensdiff.results.diff import SIDES
    from lensdiff.steps.columns import write_description

    shift = finish(store)
    write_description(store, tables_of(ANALYSES))
    write_notice(store)
    found = {side: store.load_result(f"annotations/{side}", Annotations) for side in SIDES}
    counts = pd.DataFrame({side: annotations.counts() for side, annotations in found.items()}).fillna(0).astype(int)
    print_frame("Annotations", counts.rename_axis("status").reset_index())
    shown = ["side", "label", "kind", "base_mean", "tuned_mean", "difference", "low", "high", "p_adjusted", "verdict"]
    print_frame("Shares of labels", shift.to_df()[shown], rows=60)
    for name in ("annotations", "annotation_shift", "annotation_groups"):
        write(str(store.publish(name)))
