"""The registry of views: one function per class of result, found beside the result."""

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lensdiff.results import Diff, InputError
from lensdiff.views.widget import Widget

DiffView = Callable[[Diff], Widget]
_diff_views: dict[type, DiffView] = {}


def show(result: Any) -> Widget:
    """Return the widget of a result; of a pair of equal weights, under a first line that says so.

    Raises:
        InputError: there is no view of such a thing.
    """
    _import_view(_side(result) if isinstance(result, Diff) else result)
    of_a_pair = result if isinstance(result, Diff) else getattr(result, "provenance", None)
    return replace(_view(result), notice=getattr(of_a_pair, "notice", ""))


def _import_view(result: Any) -> None:
    """Import the module `view` of the folder that a result's class lies in: it registers what draws it."""
    folder = type(result).__module__.rpartition(".")[0]
    if folder.startswith("lensdiff.") and find_spec(f"{folder}.view") is not None:
        import_module(f"{folder}.view")


def _side(result: Diff) -> Any:
    return result.tuned[0] if isinstance(result.tuned, list) and result.tuned else result.tuned


@singledispatch
def _view(result: Any) -> Widget:
    raise InputError(f"there is no view of a {type(result).__name__}")


register_view = _view.register  # the view of a result, by the class that its argument is said to be of


def register_diff(kind: type) -> Callable[[DiffView], DiffView]:
    """Register the view of a `Diff` whose two sides are of a kind (or lists of it)."""

    def register(view: DiffView) -> DiffView:
        _diff_views[kind] = view
        return view

    return register


@register_view
def _(result: Diff) -> Widget:
    side = _side(result)
    for kind, view in _diff_views.items():
        if isinstance(side, kind):
            return view(result)
    raise InputError(f"there is no view of a Diff of {type(side).__name__}")
