"""What a results directory says of itself: versions, config, the state of every unit, and a checksum of every file."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

SCHEMA = 2
ROOMS = ("arrays", "tables")  # of a results directory
State = Literal["pending", "running", "done", "failed", "skipped"]
UnitOutcome = Literal["done", "failed", "impossible"]
Kept = Literal["whole", "part", "nothing"]


def in_a_room(file: str) -> str:
    """Return the name of a file ("arrays/NAME"), which lies in one of the rooms of a directory.

    Raises:
        ValueError: it lies in none.
    """
    if file.partition("/")[0] not in ROOMS or "/" not in file:
        raise ValueError(f"{file!r} lies in none of {', '.join(ROOMS)}")
    return file


def name_of(step: str, unit: str) -> str:
    """Return the name of a unit's result, given its name within its step."""
    return f"{step}/{unit}" if unit else step


def file_of(step: str, unit: str) -> str:
    """Return the name of the file ("arrays/NAME") of a unit's result."""
    return f"{ROOMS[0]}/{name_of(step, unit)}"


FileName = Annotated[str, AfterValidator(in_a_room)]


class UnitState(BaseModel):
    """What became of one unit of a step.

    Attributes:
        digest: of all that its result depends on; another digest means that the unit has to be done again.
        outcome: done, failed (tried again by the next run), or impossible for this pair or these prompts.
        reason: why there is no result, or what is lacking in one.
        seconds: that it took.
        kept: how much of the result lies on disk: what only its readers needed goes once they are done.
        model, prompt, layers: which unit it is.
        made_of: of a result that no run made: the digests of the units that it rests on, by step and unit.
    """

    model_config = ConfigDict(extra="forbid")

    digest: str
    outcome: UnitOutcome = "done"
    reason: str = ""
    seconds: float = 0.0
    kept: Kept = "whole"
    model: str | None = None
    prompt: str | None = None
    layers: tuple[int, ...] | None = None
    made_of: dict[str, dict[str, str]] = Field(default_factory=dict)

    @property
    def has_file(self) -> bool:
        """Whether a result, or a part of one, lies on disk."""
        return self.outcome == "done" and self.kept != "nothing"


class StepState(BaseModel):
    """How far one step is.

    Attributes:
        wanted: the names of the units that the last run asked for, in order.
        units: what became of them, and of units of earlier runs that would still be the same.
    """

    model_config = ConfigDict(extra="forbid")

    wanted: list[str] = Field(default_factory=list)
    units: dict[str, UnitState] = Field(default_factory=dict)

    def of_outcome(self, outcome: UnitOutcome) -> list[str]:
        """Return the wanted units with this outcome, in order."""
        return [name for name in self.wanted if name in self.units and self.units[name].outcome == outcome]

    @property
    def done(self) -> list[str]:
        """The wanted units whose results are there (or were, until their readers were done)."""
        return self.of_outcome("done")

    @property
    def failures(self) -> dict[str, str]:
        """Why a wanted unit could not be had."""
        return {name: self.units[name].reason for name in self.of_outcome("failed")}

    @property
    def lacking(self) -> dict[str, str]:
        """What is lacking in the results of wanted units."""
        return {name: reason for name in self.done if (reason := self.units[name].reason)}

    @property
    def seconds(self) -> float:
        """That the wanted units took, over all runs."""
        return sum((self.units[name].seconds for name in self.wanted if name in self.units), 0.0)

    @property
    def state(self) -> State:
        """The step's state: "done" also where some of its units failed, as long as one is done."""
        known = [name for name in self.wanted if name in self.units]
        if not known:
            return "pending"
        if len(known) < len(self.wanted):
            return "running"
        if self.done:
            return "done"
        return "failed" if self.failures else "skipped"

    @property
    def note(self) -> str:
        """Why the step has no result at all; empty where it has one."""
        if self.state not in ("failed", "skipped"):
            return ""
        return next(iter(self.failures.values()), "") or self.units[self.wanted[0]].reason


class TableState(BaseModel):
    """A table of the directory.

    Attributes:
        digest: of what it was made of.
        note: why there is none.
        wanted: whether it is what the last run would make of its results; another one is not seen.
    """

    model_config = ConfigDict(extra="forbid")

    digest: str
    note: str = ""
    wanted: bool = True


class Manifest(BaseModel):
    """The content of `manifest.json`.

    Attributes:
        config: of the last run, as JSON values.
        command: the command that asked for it.
        versions: of Python and of the packages that the results depend on.
        pair: what the two models are.
        ended: whether the last run came to its end.
        steps, tables: by name, in the order of the run.
        checksums: of every result and table, by "arrays/NAME" or "tables/NAME".
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    config: dict[str, Any] = Field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    pair: dict[str, Any] = Field(default_factory=dict)
    ended: bool = False
    steps: dict[str, StepState] = Field(default_factory=dict)
    tables: dict[str, TableState] = Field(default_factory=dict)
    checksums: dict[FileName, str] = Field(default_factory=dict)

    @field_validator("pair")
    @classmethod
    def _sides(cls, pair: dict[str, Any]) -> dict[str, Any]:
        for side in ("base", "tuned"):
            if not isinstance(pair.get(side, {}), dict):
                raise ValueError(f"{side} is no table of facts")
        if not isinstance(pair.get("notice", ""), str):
            raise ValueError("notice is no text")
        return pair

    def of(self, units: Iterable[tuple[str, str]]) -> "Manifest":
        """Return what it says of some units' results, each given as (step, unit), and nothing else."""
        steps: dict[str, StepState] = {}
        checksums: dict[str, str] = {}
        for step, unit in units:
            known = self.steps.get(step, StepState()).units.get(unit)
            if known is not None:
                steps.setdefault(step, StepState()).units[unit] = known
                if (file := file_of(step, unit)) in self.checksums:
                    checksums[file] = self.checksums[file]
        return Manifest(steps=steps, checksums=checksums)
