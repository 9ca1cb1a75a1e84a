"""The door for what an analysis is about: one model, a pair, or results, and for controls; what is none of it is told
where it belongs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensdiff.models.inside.wrappers import is_bridge, is_hooked
from lensdiff.models.view import ModelView, view_of
from lensdiff.results import Diff, InputError, Result

MAKES_A_PAIR = "load_pair(base, tuned) makes one"


def one_model(given: Any, call: str, *, or_pair: bool = False) -> ModelView:
    """Return the view of the one model that a function is called with.

    Args:
        call: the function's name.
        or_pair: whether it takes a pair, too (which its caller has told apart).

    Raises:
        InputError: it is something else, with the call that it belongs in.
    """
    if is_model(given):
        return view_of(given)
    wanted = f"{call} takes one model{' or a pair' if or_pair else ''}, given {described(given)}"
    if is_pair(given):
        raise InputError(f"{wanted}: use pair.compare({call}, ...), or give it pair.base or pair.tuned")
    if isinstance(given, Sequence) and not isinstance(given, str):
        both = f"{call}(pair, ...)" if or_pair else f"pair.compare({call}, ...)"
        raise InputError(f"{wanted}: call it for each, or for two by pair = load_pair(base, tuned) and {both}")
    raise InputError(f"{wanted}: load_model(...) makes one of a name, a path or a transformers model")


def check_pair(given: Any, call: str) -> None:
    """Refuse what is no pair where both models of one are needed.

    Args:
        call: the function's name.

    Raises:
        InputError: it is something else, such as one model, with the call that it belongs in.
    """
    if not is_pair(given):
        raise InputError(f"{call} takes a pair of models, given {described(given)}: {MAKES_A_PAIR}")


def check_results(given: Any, kind: type | tuple[type, ...], call: str, maker: str, *, many: bool = False) -> None:
    """Refuse what are no results of another function where such are needed.

    Args:
        kind: the results' class; call: the function's name; maker: that of the function which makes them.
        many: whether several of them, in a list or a generator, are what is needed, too.

    Raises:
        InputError: it is something else, such as the models themselves, with the call that makes the results.
    """
    if isinstance(given, kind) or (many and isinstance(given, Iterable) and not isinstance(given, str | Path)):
        return
    wanted = f"{call} takes results of {maker}, given {described(given)}"
    if isinstance(given, Diff):
        raise InputError(f"{wanted}: give its base and its tuned one apart, {call}(diff.base, diff.tuned)")
    raise InputError(f"{wanted}: diff = pair.compare({maker}, ...) makes them, its base and its tuned one are compared")


def check_controls(given: Any, call: str, maker: str = "") -> None:
    """Refuse what is no list (or generator) of controls, such as a single one.

    Args:
        call: the function's name; maker: that of the function whose results on controls it takes, "" where it takes
            the controls themselves.

    Raises:
        InputError: it is something else, with the call that it needs.
    """
    single = is_model(given) or is_pair(given) or isinstance(given, Result | Diff | str | Path | Mapping)
    if isinstance(given, Iterable) and not single:
        return
    if maker:
        wanted = f"{call} takes results of {maker} on controls, in a list, given {described(given)}"
        raise InputError(f"{wanted}: controls=[{maker}(pair.control(kind, seed), ...), ...]")
    wanted = f"{call} takes controls in a list, given {described(given)}"
    if is_model(given):
        raise InputError(f"{wanted}: controls=[control], and 19 of a kind or more for a band")
    raise InputError(f"{wanted}: controls=[pair.control(kind, seed), ...]")


def results_on_controls(given: Any, kind: type, call: str, maker: str) -> Iterable[Any]:
    """Return results of another function on controls, each of which is looked at before it is used.

    Args:
        given: a list of them, or a generator, which is read one at a time.
        kind: the results' class; call, maker: as of `check_controls`.

    Raises:
        InputError: as `check_controls`, or one of them is something else; of a generator once it is read.
    """
    check_controls(given, call, maker)

    def checked(one: Any) -> Any:
        if isinstance(one, kind):
            return one
        wanted = f"{call} takes results of {maker} on controls, given {described(one)}"
        raise InputError(f"{wanted}: controls=[{maker}(pair.control(kind, seed), ...), ...]")

    return [checked(one) for one in given] if isinstance(given, Collection) else (checked(one) for one in given)


def is_pair(given: Any) -> bool:
    """Return whether something is a pair of models."""
    from lensdiff.models.pair import ModelPair  # whose controls are trained on texts, which pass this door

    return isinstance(given, ModelPair)


def is_model(given: Any) -> bool:
    """Return whether something is a model, or the view of one."""
    return isinstance(given, ModelView) or is_hooked(given) or is_bridge(given)


def described(given: Any) -> str:
    """Return in words what was given."""
    if is_pair(given):
        return "a pair of two"
    if is_model(given):
        return "one model"
    return f"a {type(given).__name__}"
