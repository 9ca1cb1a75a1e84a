"""Docstrings of the public names: what to pass, what comes back, what can go wrong, without another page."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lensdiff
from lensdiff.results import Result

NOTHING_RAISED = ("show_progress",)
OURSELVES = ("AssertionError", "AttributeError", "TypeError", "RuntimeError")  # that no caller is to expect
SECTIONS = r"(?:Args|Attributes|Returns|Raises|Source|Columns)"


def results() -> set[type]:
    """Every class of result."""
    for module in pkgutil.walk_packages(lensdiff.__path__, "lensdiff."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type) -> set[type]:
        return {one for sub in kind.__subclasses__() for one in (sub, *below(sub))}

    return {kind for kind in below(Result) if kind.__module__.startswith("lensdiff.")}


NAMES = {name: getattr(lensdiff, name) for name in lensdiff.__all__ if name != "__version__"}
FUNCTIONS = {name: one for name, one in NAMES.items() if inspect.isfunction(one)}
EVERY = {*results(), *(one for one in NAMES.values() if inspect.isclass(one))}
CLASSES = {kind.__name__: kind for kind in sorted(EVERY, key=lambda kind: kind.__name__)}


def own(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class writes itself."""
    for name, thing in vars(kind).items():
        plain = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
        if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
            yield f"{kind.__name__}.{name}", plain


MEMBERS = dict(item for kind in CLASSES.values() for item in own(kind))
METHODS = {name: one for name, one in MEMBERS.items() if inspect.isfunction(one)}


def section(doc: str, name: str) -> str:
    """What stands under a heading of a docstring; "" without it."""
    found = re.search(rf"^{name}:[ \n](.*?)(?=^{SECTIONS}:|\Z)", inspect.cleandoc(doc), re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def named(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){name}(?!\w)", text) is not None


def entries(text: str) -> set[str]:
    """The names that a section has an entry for: "a, b: ..." and, behind a semicolon, "c: ..."."""
    heads = re.findall(r"(?:^ *|; )(\w+(?:, \w+)*):", text, re.MULTILINE)
    return {name for head in heads for name in head.split(", ")}


def raised(function: Callable[..., Any]) -> set[str]:
    """The errors that a function itself raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    return {name for name in names if name[0].isupper()} - {*OURSELVES}


def lacks(function: Callable[..., Any]) -> list[str]:
    """What a reader of a function's docstring is not told."""
    doc = inspect.getdoc(function) or ""
    first = doc.split("\n\n")[0].strip()
    returns = inspect.signature(function).return_annotation not in (None, "None", inspect.Signature.empty)
    found = [f"parameter {name}" for name in parameters(function) if not named(name, doc)]
    if not first.endswith((".", ":")):
        found.append("a first sentence")
    if returns and not section(doc, "Returns") and not re.search(r"\b(return|yield)", first, re.IGNORECASE):
        found.append("what it returns")
    return found + [f"error {name}" for name in raised(function) if not named(name, section(doc, "Raises"))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_on_a_function_is_enough_to_use_it(name: str) -> None:
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function) or ""
    assert lacks(function) == []
    assert set(parameters(function)) <= entries(section(doc, "Args"))
    assert section(doc, "Raises") or name in NOTHING_RAISED


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_takes_gives_and_refuses(name: str) -> None:
    assert lacks(METHODS[name]) == []


@pytest.mark.parametrize("name", sorted(set(MEMBERS) - set(METHODS)))
def test_a_property_says_what_it_is(name: str) -> None:
    assert (MEMBERS[name].__doc__ or "").strip().split("\n\n")[0].endswith(".")


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_a_class_is_described(name: str) -> None:
    kind = CLASSES[name]
    doc = inspect.cleandoc(kind.__doc__ or "")
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":"))
    fields = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    of_all = [field.name for field in dataclasses.fields(Result)]
    assert [field for field in fields if field not in of_all and not named(field, doc)] == []
    if "__init__" in vars(kind) and not dataclasses.is_dataclass(kind):
        assert [name for name in parameters(kind) if not named(name, doc + (kind.__init__.__doc__ or ""))] == []


def test_what_all_results_have_is_described_once() -> None:
    assert {field.name for field in dataclasses.fields(Result)} <= entries(section(Result.__doc__ or "", "Attributes"))


def test_what_is_not_said_is_missed() -> None:
    def half(told: int, untold: int) -> int:
        """Do something with `told`

        Raises:
            KeyError: never.
        """
        if told < untold:
            raise ValueError("less")
        return told

    assert lacks(half) == ["parameter untold", "a first sentence", "what it returns", "error ValueError"]
    assert entries(section("Do.\n\nArgs:\n    a, b: of it; c: too.\n    d: one.\n\nRaises:\n    E: no.", "Args")) == {
        *"abcd"
    }
