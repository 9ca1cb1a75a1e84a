"""What a results directory says of itself: schema, config, versions, the pair, and the state of every step."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
State = Literal["pending", "running", "done", "failed", "skipped"]


class StepState(BaseModel):
    """How far one step is.

    Attributes:
        units: how many units of work the step has; 0 before it began.
        done: the names of the finished ones.
        failures: why a unit could not be had, by its name.
        seconds: spent on finished units, over all runs.
        note: why the step was skipped or failed.
    """

    model_config = ConfigDict(extra="forbid")

    state: State = "pending"
    units: int = 0
    done: list[str] = Field(default_factory=list)
    failures: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""


class Manifest(BaseModel):
    """The content of `manifest.json`.

    Attributes:
        config: the run's, as JSON values.
        versions: of Python and of the packages that the results depend on.
        pair: what the two models are and in what they differ.
        steps: by name, in the order they began.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    config: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    pair: dict[str, Any] = Field(default_factory=dict)
    steps: dict[str, StepState] = Field(default_factory=dict)


def first_difference(there: Any, here: Any, path: str = "") -> tuple[str, str, str] | None:
    """Return (dotted key, value there, value here) of the first entry in which two JSON values differ, or None."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(k for k in here if k not in there)]:
            inner = f"{path}.{key}" if path else key
            if key not in there or key not in here:
                old, new = (repr(side[key]) if key in side else "not set" for side in (there, here))
                return inner, old, new
            if found := first_difference(there[key], here[key], inner):
                return found
        return None
    return None if there == here else (path, repr(there), repr(here))


def without(config: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return a config without some keys, dotted within tables."""
    kept = {key: value for key, value in config.items() if key not in keys}
    for table in {key.partition(".")[0] for key in keys if "." in key}:
        if isinstance(kept.get(table), dict):
            inner = tuple(key.removeprefix(f"{table}.") for key in keys if key.startswith(f"{table}."))
            kept[table] = without(kept[table], inner)
    return kept
