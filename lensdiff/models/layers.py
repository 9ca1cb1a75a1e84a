"""Which layers and heads are read: one check for every analysis, so that a wrong choice is refused everywhere alike."""

from collections.abc import Sequence

from lensdiff.results import InputError


def chosen_indices(wanted: Sequence[int] | None, available: Sequence[int], what: str) -> tuple[int, ...]:
    """Return the layers (or heads) that are asked for, in their order; all that are available for None.

    Args:
        what: "layers" or "heads", as the option is called.

    Raises:
        InputError: none is asked for, one twice, or one that is not available.
    """
    found = tuple(available if wanted is None else wanted)
    if not found or len(set(found)) < len(found) or not set(found) <= set(available):
        raise InputError(f"{what}={list(found)} given, expected at least one of {_spelled(available)}, each once")
    return found


def _spelled(available: Sequence[int]) -> str:
    if len(available) > 1 and list(available) == list(range(available[0], available[-1] + 1)):
        return f"{available[0]} to {available[-1]}"
    return ", ".join(map(str, available))
