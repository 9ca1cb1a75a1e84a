"""Controls named by hand, without a model."""

from collections.abc import Mapping

from lensdiff.results import Control, ControlModel


def controls_of(numbers: Mapping[str, int]) -> tuple[ControlModel, ...]:
    """As many controls of each kind."""
    kinds = [kind for kind, n in numbers.items() for _ in range(n)]
    return tuple(ControlModel(f"a + {kind} change (seed {i})", Control(kind, i)) for i, kind in enumerate(kinds))
