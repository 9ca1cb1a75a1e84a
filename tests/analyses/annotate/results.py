"""Annotations made by hand, without a model or an annotator."""

from typing import Any

import numpy as np
import torch

from lensdiff.analyses.annotate.annotations import Annotations
from lensdiff.analyses.annotate.shift import AnnotationShift, annotation_shift
from lensdiff.results import Provenance

TASKS = ("daily_writing", "literary_writing", "coding")
LEVELS = ("morphology", "semantics")
OPTIONS = {"annotator": "fake", "prompts": "abc", "top_words": 15, "temperature": 1.0}


def annotations(
    task: torch.Tensor,
    level: torch.Tensor | None = None,
    status: torch.Tensor | None = None,
    *,
    layers: tuple[int, ...] | None = None,
    model: str = "tiny",
    **options: Any,
) -> Annotations:
    """Annotations with the given tasks [layer, component, seed, task]; explained, of the first level, unless given."""
    shape = task.shape[:3]
    status = torch.zeros(shape) if status is None else status
    level = torch.zeros(shape) if level is None else level
    explained = status == 0
    texts = ("",) * status.numel()
    return Annotations(
        Provenance("annotate", model, options=OPTIONS | options),
        tuple(range(shape[0])) if layers is None else layers,
        ("value",),
        tuple(range(shape[2])),
        TASKS,
        LEVELS,
        {"writing": ("daily_writing", "literary_writing")},
        status.to(torch.int8)[:, None],
        (task.bool() & explained[..., None])[:, None],
        torch.where(explained, level, -1).to(torch.int8)[:, None],
        texts,
        texts,
    )


def random_annotations(
    share: float, seed: int, *, layers: int = 4, components: int = 50, seeds: int = 5, flips: float = 0.1, **kw: Any
) -> Annotations:
    """Each component carries each label with a probability; a seed reads it wrongly now and then."""
    rng = np.random.default_rng(seed)
    truth = rng.random((layers, components, 1, 3)) < share
    wrong = rng.random((layers, components, seeds, 3)) < flips
    return annotations(torch.from_numpy(truth ^ wrong), **kw)


def shift() -> AnnotationShift:
    """Random annotations of two models with the same shares, over two groups of layers."""
    base, tuned = (random_annotations(0.4, seed, layers=5, model=model) for seed, model in ((1, "a"), (2, "b")))
    return annotation_shift(base, tuned, n_resamples=99)
