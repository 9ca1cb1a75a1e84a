"""Types and shapes are checked where they can be wrong at a price that thousands of runs can pay.

jaxtyping's import hook binds the arguments of every call of every function, and compiles a checker each time that a
function within a function is defined: two thirds of the time of a small run. So

    a function with a shape in its annotations   is checked by jaxtyping, as its hook has it
    another one                                  by beartype alone
    one within another function                  by its callers and callees

A generator is left to jaxtyping too: it forgives a bare `Iterator`, beartype does not.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping

ASKING = ("lensdiff.results.fields",)  # asks for shapes itself, of nobody's axes but its own
_whole = jaxtyping.jaxtyped


def install() -> None:
    """Put the checks on every module of lensdiff that is imported from now on."""
    jaxtyping.jaxtyped = _cheaper  # the hook writes this name into the modules
    jaxtyping.install_import_hook("lensdiff", "beartype.beartype")


def _cheaper(fn: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    if fn is None:
        return lambda fn: _cheaper(fn, typechecker=typechecker)
    if not inspect.isfunction(fn):  # a class, a property
        return _whole(fn, typechecker=typechecker)
    if "<locals>" in fn.__qualname__:
        return fn
    whole = _has_shapes(fn) or inspect.isgeneratorfunction(fn) or fn.__module__ in ASKING
    return _whole(fn, typechecker=typechecker) if whole else typechecker(fn)


def _has_shapes(fn: Callable[..., Any]) -> bool:
    return any("jaxtyping" in repr(kind) or isinstance(kind, str) for kind in fn.__annotations__.values())
