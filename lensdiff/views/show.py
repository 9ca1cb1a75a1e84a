"""The registry of views: one function per class of result, found beside the result; of the others a table is shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from lensdiff.results import Diff, InputError, Result, Results
from lensdiff.views.fallback import table_html
from lensdiff.views.small_table import SmallTable
from lensdiff.views.widget import Widget, with_scripts_of

ROWS = 20  # of a table that is all there is to see
DiffView = Callable[[Diff], Widget]
ManyView = Callable[[Sequence[Any]], Widget]
_diff_views: dict[type, DiffView] = {}
_many_views: dict[type, ManyView] = {}


@runtime_checkable
class HasTable(Protocol):
    """What has a table, and rows of it that a reader looks at first."""

    def to_df(self) -> Any: ...
    def top(self, k: int = 10) -> Any: ...


def show(result: Any) -> Widget:
    """Return the widget of a result; of a pair of equal weights, under a first line that says so.

    Raises:
        InputError: there is no view of such a thing.
    """
    _import_view(_one(result))
    of_a_pair = result if isinstance(result, Diff) else getattr(_one(result), "provenance", None)
    return replace(_view(result), notice=getattr(of_a_pair, "notice", ""))


def _import_view(result: Any) -> None:
    """Import the module `view` of the package that a result's class lies in: it registers what draws it.

    Scripts and styles lie beside it.
    """
    package = type(result).__module__.rpartition(".")[0]
    if isinstance(result, Result) and _has_view(package):
        import_module(f"{package}.view")
        with_scripts_of(package)


def _has_view(package: str) -> bool:
    try:
        return bool(package) and find_spec(f"{package}.view") is not None
    except ModuleNotFoundError:  # a class that was made by hand
        return False


def _one(result: Any) -> Any:
    """Return the result of one model and one prompt: of a pair the tuned model's, of a list the first."""
    if isinstance(result, Diff):
        return _one(result.tuned)
    return result[0] if isinstance(result, Results | list) and result else result


@singledispatch
def _view(result: Any) -> Widget:
    return _rows(result, type(result).__name__)


def _rows(result: Any, what: str) -> Widget:
    """Return the first rows of a result that has no view of its own.

    Raises:
        InputError: there is no table of such a thing.
    """
    one = _one(result)
    if not isinstance(one, HasTable) or isinstance(one, Results):  # of no prompts
        raise InputError(f"there is no view of a {what}")
    first = result.top(ROWS)
    caption = f"{what}: the first {len(first)} rows, see to_df()" if len(first) == ROWS else what
    return Widget("rows", SmallTable.of(first, caption), what, fallback=table_html(first, caption))


register_view = _view.register  # the view of a result, by the class that its argument is said to be of


def register_diff(kind: type) -> Callable[[DiffView], DiffView]:
    """Register the view of a `Diff` whose two sides are of a kind (or lists of it)."""

    def register(view: DiffView) -> DiffView:
        _diff_views[kind] = view
        return view

    return register


def register_many(kind: type) -> Callable[[ManyView], ManyView]:
    """Register the view of the `Results` of a list of prompts, each of a kind."""

    def register(view: ManyView) -> ManyView:
        _many_views[kind] = view
        return view

    return register


@register_view
def _(result: Diff) -> Widget:
    return _of_kind(_diff_views, result, "Diff")


@register_view
def _(result: Results) -> Widget:
    return _of_kind(_many_views, result, "Results")


def _of_kind(views: Mapping[type, Callable[[Any], Widget]], result: Any, what: str) -> Widget:
    one = _one(result)
    for kind, view in views.items():
        if isinstance(one, kind):
            return view(result)
    return _rows(result, f"{what} of {type(one).__name__}")
