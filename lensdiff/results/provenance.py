"""Where a result comes from: enough to compute it again."""

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("lensdiff", "torch", "transformer-lens", "transformers")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


@dataclass(frozen=True)
class Control:
    """A meaningless change of the base, of the size of the real one.

    Attributes:
        kind: "distilled", "shuffled", "gradient-noise", "spectrum", "norm" or "self"; see `lensdiff.models.controls`.
        seed: of its random numbers.
        options: what else it was made with, where it was kept excepted; long ones (texts, data) by their digest.
    """

    kind: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


GIVEN = "given"  # the kind of a control that was not made by a pair


@dataclass(frozen=True)
class ControlModel:
    """A control model that a result was compared with.

    Attributes:
        name: the model's.
        made: how; None for a model that no pair made.
    """

    name: str
    made: Control | None = None

    @property
    def kind(self) -> str:
        """The kind of the control; "given" for a model that no pair made."""
        return GIVEN if self.made is None else self.made.kind


@dataclass(frozen=True)
class Provenance:
    """Model, view of its weights, options and versions behind a result, and the controls that it stands beside.

    `options` holds every keyword of the analysis as it was used, also those left at their default; values are JSON
    types. `control` is there where the model was one. `controls` are those of a comparison, in the order of its rows.
    """

    analysis: str
    model: str
    revision: str | None = None
    weights: str = "raw"
    wrapper: str = ""
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=package_versions)
    control: Control | None = None
    controls: tuple[ControlModel, ...] = ()

    @property
    def as_control(self) -> ControlModel:
        """The model, as it is recorded where it is a control."""
        return ControlModel(self.model, self.control)

    @property
    def control_kinds(self) -> tuple[str, ...]:
        """The kind of each of `controls`."""
        return tuple(control.kind for control in self.controls)

    @property
    def control_counts(self) -> dict[str, int]:
        """How many controls there are of each kind, in the order that the kinds came."""
        return dict(Counter(self.control_kinds))

    def beside(self, controls: Iterable["Provenance"]) -> "Provenance":
        """Return the same beside these controls and no others, given where their own results come from."""
        return replace(self, controls=tuple(control.as_control for control in controls))

    @property
    def template(self) -> str:
        """How the prompts were rendered: "raw", or "chat" where a chat template wrote them."""
        return self.options.get("template", "raw")

    @property
    def notice(self) -> str:
        """What a reader must know first: that the weights of the pair are equal, where they are."""
        return self.options.get("notice", "")
