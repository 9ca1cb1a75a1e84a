"""What an annotating model says of components: the result, and how its answers are read.

An annotation is a description with tasks (several or none) and one linguistic level, or a status that says why there
is none. Nothing is guessed: an answer that does not hold exactly the JSON that was asked for is malformed.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lensdiff.analyses.mlp.components import Side
from lensdiff.inputs.annotation_prompts import AnnotationPrompts
from lensdiff.inputs.answer_json import object_in
from lensdiff.inputs.characters import lone_surrogate
from lensdiff.results import Provenance, Result
from lensdiff.results.tidy import tidy

STATUSES = ("explained", "unexplained", "refused", "malformed", "rejected")
NO_LEVEL = -1


class Annotation(NamedTuple):
    """One component as one seed sees it; `reason` says why there is no annotation."""

    status: str
    description: str = ""
    tasks: tuple[str, ...] = ()
    level: str = ""
    reason: str = ""


def parse_description(text: str) -> tuple[bool, str]:
    """Return whether a component can be explained, and how.

    Raises:
        ValueError: the text does not hold the JSON that was asked for, explains without a description, or with half a
            character, which nothing can be written with.
    """
    found = _json_object(text, {"explainable": bool, "description": str})
    description = found["description"].strip()
    if found["explainable"] and not description:
        raise ValueError("explainable, but without a description")
    if lone_surrogate(description) is not None:
        raise ValueError("the description holds half a character")
    return found["explainable"], description


def parse_labels(text: str, prompts: AnnotationPrompts) -> tuple[tuple[str, ...], str]:
    """Return a component's tasks, in the prompts' order, and its level.

    Raises:
        ValueError: the text does not hold the JSON that was asked for, or names a label that does not exist.
    """
    found = _json_object(text, {"tasks": list, "level": str})
    unknown = [task for task in found["tasks"] if task not in list(prompts.tasks)]
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r}")
    if found["level"] not in prompts.levels:
        raise ValueError(f"unknown level {found['level']!r}")
    return tuple(task for task in prompts.tasks if task in found["tasks"]), found["level"]


def _json_object(text: str, keys: dict[str, type]) -> dict[str, Any]:
    found = object_in(text, keys)
    if more := set(found) - set(keys):
        raise ValueError(f"expected an object with {', '.join(keys)} alone, given also {min(more)!r}")
    for key, kind in keys.items():
        if not isinstance(found[key], kind):
            raise ValueError(f"{key} is a {type(found[key]).__name__}, expected {kind.__name__}")
    return found


@dataclass(frozen=True, eq=False)
class Annotations(Result):
    """What an annotating model says of each component, once per seed.

    Attributes:
        layers, sides, seeds: what the axes count; components are the leading ones.
        tasks, levels: the labels.
        groups: several tasks that are also counted as one.
        status: index into `STATUSES`. Only "explained" components have tasks and a level.
        task: whether a component serves a task.
        level: index into `levels`, -1 where there is none.
        descriptions, reasons: a text per component and seed, in the order of `status`; empty where there is none.
    """

    calls = ("counts()", "top()", "to_df()", "show()")

    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    levels: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    status: Int[Tensor, "layer side component seed"]
    task: Bool[Tensor, "layer side component seed task"]
    level: Int[Tensor, "layer side component seed"]
    descriptions: tuple[str, ...]
    reasons: tuple[str, ...]

    def told(self) -> list[str]:
        """Return how many annotations have each status."""
        return [", ".join(f"{n} {status}" for status, n in self.counts().items() if n)]

    def to_df(self) -> pd.DataFrame:
        """Return one row per component and seed: what was said, or the reason why nothing was.

        Columns: layer, side, component, seed, status, description, tasks (joined by "; "), level, reason.
        """
        axes = {
            "layer": self.layers,
            "side": self.sides,
            "component": range(self.status.shape[2]),
            "seed": self.seeds,
        }
        rows = self.task.flatten(0, 3).tolist()
        return tidy(axes, {}).assign(
            status=[STATUSES[i] for i in self.status.flatten().tolist()],
            description=self.descriptions,
            tasks=["; ".join(t for t, has in zip(self.tasks, row, strict=True) if has) for row in rows],
            level=["" if i == NO_LEVEL else self.levels[i] for i in self.level.flatten().tolist()],
            reason=self.reasons,
        )

    def counts(self) -> pd.Series:
        """Return how many annotations have each status."""
        counted = torch.bincount(self.status.flatten().long(), minlength=len(STATUSES))
        return pd.Series(counted.tolist(), index=list(STATUSES), name="annotations")

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k components that were explained, layer by layer, by the first seed."""
        frame = self.to_df()
        columns = ["layer", "side", "component", "level", "description"]
        some = frame.loc[(frame.status == "explained") & (frame.seed == self.seeds[0])]
        return some.head(k).reset_index(drop=True).loc[:, columns]

    @classmethod
    def gather(
        cls,
        provenance: Provenance,
        found: list[Annotation],
        prompts: AnnotationPrompts,
        *,
        layers: tuple[int, ...],
        sides: tuple[Side, ...],
        seeds: tuple[int, ...],
    ) -> "Annotations":
        """Return annotations in the order of layer, side, component and seed as one result.

        Args:
            provenance: of the annotated concepts.
            found: an annotation for each component and seed, in that order.
            prompts: that were asked, with their labels.
            layers, sides, seeds: what the axes count.
        """
        tasks, levels = tuple(prompts.tasks), tuple(prompts.levels)
        shape = (len(layers), len(sides), -1, len(seeds))
        level = [levels.index(a.level) if a.level else NO_LEVEL for a in found]
        return cls(
            provenance,
            layers,
            sides,
            seeds,
            tasks,
            levels,
            prompts.groups,
            torch.tensor([STATUSES.index(a.status) for a in found], dtype=torch.int8).reshape(shape),
            torch.tensor([[task in a.tasks for task in tasks] for a in found]).reshape(*shape, len(tasks)),
            torch.tensor(level, dtype=torch.int8).reshape(shape),
            tuple(a.description for a in found),
            tuple(a.reason for a in found),
        )
