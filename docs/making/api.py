"""The pages of the API: every public name with its methods, and the results that analyses give."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import lensdiff
from docs.making.markdown import cell, page, table
from lensdiff.analyses import ANALYSES
from lensdiff.results import InputError, Result, Results

FOLDER = "reference/api"
ROOMS = {
    "models": "Models and pairs",
    "inputs": "Prompts and words",
    "pipeline": "Runs and reports",
    "results": "Results",
}
PUBLIC = [name for name in dir(lensdiff) if not name.startswith("_")]
MORE = (Result, Results, InputError)  # what is met everywhere, and imported by nobody


def pages() -> dict[str, str]:
    """Return the pages of the API by their places, in their order: a list of all names first."""
    found = {f"{FOLDER}/index.md": _index()}
    for group, (title, names) in _groups().items():
        found[f"{FOLDER}/{group}.md"] = page(title, *(f"::: {name}" for name in names))
    return found


def entries() -> list[str | dict[str, str]]:
    """Return the pages as entries of the navigation: of an analysis by its name."""
    found: list[str | dict[str, str]] = [f"{FOLDER}/index.md"]
    for group, (title, _) in _groups().items():
        found.append({title if group in ROOMS else group: f"{FOLDER}/{group}.md"})
    return found


def undocumented() -> list[str]:
    """Return a sentence for each public name, and each public method and property of one, that says nothing."""
    lacking = [name for value in _documented() for name in _silent(value)]
    return [f"{name} has no docstring" for name in dict.fromkeys(lacking)]


def misnamed() -> list[str]:
    """Return a sentence for each parameter that a docstring describes and a function does not have."""
    found = []
    for function in _functions():
        section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.MULTILINE | re.DOTALL)
        named = re.findall(r"^ {4}(\w[\w, *]*):", section[1], re.MULTILINE) if section else []
        for name in (part.strip(" *") for line in named for part in line.split(",")):
            if name not in inspect.signature(function).parameters:
                found.append(f"{function.__module__}.{function.__qualname__} has no parameter {name}")
    return found


def _functions() -> Iterator[Any]:
    for value in dict.fromkeys(_documented()):
        members = [member for _, member in _members(value)] if inspect.isclass(value) else [value]
        yield from (member for member in members if inspect.isfunction(member))


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class has of its own."""
    for name, inside in vars(kind).items():
        member = inside.__func__ if isinstance(inside, classmethod | staticmethod) else inside
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | cached_property)):
            yield name, member


def _documented() -> Iterator[Any]:
    yield from (getattr(lensdiff, name) for name in PUBLIC)
    yield from MORE
    yield from (kind for group in _groups() for kind in _results(group))


def _silent(value: Any) -> Iterator[str]:
    name = f"{value.__module__}.{value.__qualname__}"
    if not (value.__doc__ or "").strip() or value.__doc__.startswith(f"{value.__name__}("):  # what dataclass writes
        yield name
    if inspect.isclass(value):
        yield from (f"{name}.{member}" for member, inside in _members(value) if not (inside.__doc__ or "").strip())


@cache
def _groups() -> dict[str, tuple[str, list[str]]]:
    """Return (title, identifiers) by the name of a page: rooms first, then analyses in their order."""
    titles = ROOMS | {analysis.name: analysis.question for analysis in ANALYSES}
    groups: dict[str, tuple[str, list[str]]] = {name: (title, []) for name, title in titles.items()}
    for name in sorted(PUBLIC, key=lambda name: (name[:1].isupper(), name)):
        _, room, *rest = getattr(lensdiff, name).__module__.split(".")
        group = rest[0] if room == "analyses" else room
        groups.setdefault(group, (group.capitalize(), []))[1].append(f"lensdiff.{name}")
    for kind in MORE:
        groups["results"][1].append(f"lensdiff.results.{kind.__name__}")
    public = {getattr(lensdiff, name) for name in PUBLIC}
    for group in groups:
        groups[group][1].extend(f"{kind.__module__}.{kind.__name__}" for kind in _results(group) if kind not in public)
    return {group: found for group, found in groups.items() if found[1]}


@cache
def _results(analysis: str) -> list[type[Result]]:
    """Return the results that an analysis gives; none where the name is of no analysis."""
    if analysis in ROOMS:
        return []
    package = importlib.import_module(f"lensdiff.analyses.{analysis}")
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    kinds = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    own = [kind for kind in kinds if issubclass(kind, Result) and kind.__module__.startswith(f"{package.__name__}.")]
    return sorted(own, key=lambda kind: kind.__name__)


def _index() -> str:
    rows = []
    for group, (_, names) in _groups().items():
        for name in names:
            module, _, last = name.rpartition(".")
            value = getattr(importlib.import_module(module), last)
            rows.append((f"[`{last}`]({group}.md#{name})", cell(_first(value))))
    text = (
        "Every public name is in `lensdiff`; what an analysis gives is a result, whose methods are those of `Result`. "
        'Shapes stand in signatures (`Float[Tensor, "head_index d_model"]`), differences are tuned - base, and a '
        "mistake in what you give is an `InputError` of one sentence."
    )
    return page("API", text, table(("name", "what it is"), rows))


def _first(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
