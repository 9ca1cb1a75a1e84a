"""A unit: the smallest piece of work of a run, done once and then kept."""

from dataclasses import dataclass

from lensdiff.defaults import SIDES as SIDES
from lensdiff.inputs.spans import shorten


@dataclass(frozen=True)
class Unit:
    """What a unit is about, as far as it is about anything less than the pair and all prompts.

    Attributes:
        model: "base", "tuned", or the name of a control ("gradient-noise-3").
        prompt: a prompt's id.
        layers: the layers that are read.
    """

    model: str | None = None
    prompt: str | None = None
    layers: tuple[int, ...] | None = None

    @property
    def path(self) -> str:
        """Its name within its step: of the parts that it has, joined by "/"; "" for the only unit of a step."""
        layers = None if self.layers is None else ",".join(map(str, self.layers))
        return "/".join(part for part in (self.model, self.prompt, layers) if part is not None)

    @property
    def control(self) -> str | None:
        """The name of the control that it reads, or None."""
        return None if self.model is None or self.model in SIDES else self.model

    def __str__(self) -> str:
        """Return the unit in words."""
        words = [] if self.model is None else [self.model]
        words += [] if self.prompt is None else [f"prompt {shorten(self.prompt)}"]
        words += [] if self.layers is None else [f"layers {','.join(map(str, self.layers))}"]
        return ", ".join(words) or "the pair"


WHOLE = Unit()


def name_of(step: str, unit: Unit) -> str:
    """Return the name of a unit's result in the results directory."""
    return f"{step}/{unit.path}" if unit.path else step


def split_control(name: str) -> tuple[str, int]:
    """Return kind and number of a control by its name ("gradient-noise-3")."""
    kind, _, number = name.rpartition("-")
    return kind, int(number)
