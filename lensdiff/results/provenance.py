"""Where a result comes from: enough to compute it again."""

import platform
from dataclasses import dataclass, field
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
class Provenance:
    """Model, view of its weights, options and versions behind a result.

    `options` holds every keyword of the analysis as it was used, also those left at their default; values are JSON
    types. `control` is there where the model was one.
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

    @property
    def control_kind(self) -> str:
        """The kind of the control that was read; "given" for a model that no pair made."""
        return GIVEN if self.control is None else self.control.kind

    @property
    def notice(self) -> str:
        """What a reader must know first: that the weights of the pair are equal, where they are."""
        return self.options.get("notice", "")
