"""What Table 5 and Figure 3 share: the concepts of both models, annotated by a chat model behind a server."""

import argparse
from typing import Any

import pandas as pd

from experiments.common import Experiment, add_server, server
from lensdiff.analyses.annotate.measure import annotate
from lensdiff.analyses.annotate.shift import AnnotationShift
from lensdiff.analyses.annotate.steps import finish, keep
from lensdiff.analyses.mlp.coherence import Coherence
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.cli.output import write
from lensdiff.steps.found import Found
from lensdiff.steps.unit import SIDES, Unit

NEEDS_A_SERVER = (
    "needs a server: give --base-url (any OpenAI-compatible one) and --model; the concepts are there and will not be "
    "computed again"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an annotation."""
    add_server(parser)
    parser.add_argument("--seeds", type=int, default=5, help="annotations of every component")
    parser.add_argument("--components", type=int, help="the leading ones of each layer (default: all of the run's)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")


def shift_of(experiment: Experiment, found: Found) -> AnnotationShift | None:
    """Return how the labels' shares changed; None, after saying so, without a server.

    Answers are kept beside the concepts: both experiments, and a run that was stopped, ask every question once.
    """
    options, store = experiment.options, found.store
    concepts = {side: found.of_model("concepts", MLPConcepts, side) for side in SIDES}
    if not options.base_url:
        write(NEEDS_A_SERVER)
        return None
    had = concepts["base"].index.shape[:3].numel()
    per_layer = min(options.components or had, concepts["base"].index.shape[2])
    n = had // concepts["base"].index.shape[2] * per_layer
    write(f"requests: at most {2 * 2 * n * options.seeds} ({n} components, {options.seeds} seeds, both models)")
    asked = server(options) | {"max_tokens": 500, "temperature": 1.0, "cache": store.root / "annotation-answers"}
    counts = {}
    with store.writing():
        for side in SIDES:
            annotations = annotate(
                concepts[side],
                model=options.model,
                seeds=range(options.seeds),
                components=options.components,
                concurrency=options.concurrency,
                **asked,
            )
            keep(store, side, annotations)
            counts[side] = annotations.counts()
        shift = finish(store)
    frame = pd.DataFrame(counts).rename_axis("status").reset_index()
    experiment.table("annotations", f"Annotations by {options.model}; only the first two kinds count", frame)
    return shift


def coherence(found: Found) -> pd.DataFrame:
    """Return a row per layer: the share of components more coherent than 95 % of random directions, in both models."""
    frames: list[Any] = [
        found.one("coherence", Coherence, Unit(side)).by_layer().set_index(["layer", "side"]) for side in SIDES
    ]
    shares = [frame["share_above"].rename(name) for frame, name in zip(frames, SIDES, strict=True)]
    return pd.concat(shares, axis=1).reset_index()
