"""The registry of views: one function per class of result."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

from lensdiff.results import Diff, InputError
from lensdiff.views.widget import Widget

DiffView = Callable[[Diff], Widget]
_diff_views: dict[type, DiffView] = {}


@singledispatch
def show(result: Any) -> Widget:
    """Return the widget of a result.

    Raises:
        InputError: there is no view of such a thing.
    """
    raise InputError(f"there is no view of a {type(result).__name__}")


def register_diff(kind: type) -> Callable[[DiffView], DiffView]:
    """Register the view of a `Diff` whose two sides are of a kind (or lists of it)."""

    def register(view: DiffView) -> DiffView:
        _diff_views[kind] = view
        return view

    return register


@show.register
def _(result: Diff) -> Widget:
    side = result.tuned[0] if isinstance(result.tuned, list) and result.tuned else result.tuned
    for kind, view in _diff_views.items():
        if isinstance(side, kind):
            return view(result)
    raise InputError(f"there is no view of a Diff of {type(side).__name__}")
