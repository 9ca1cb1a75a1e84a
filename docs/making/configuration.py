"""The page of the configuration: every key of a run, its type, bounds, default and meaning, from the options."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from docs.making.markdown import cell, code, page, table
from lensdiff.pipeline.config import TABLES, MessageEntry, PromptEntry, WholeConfig
from lensdiff.pipeline.example import example
from lensdiff.steps.options import Options, are_layers

NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "at least", "max_length": "at most"}
HEAD = ("key", "what it is", "type", "default")
INTRODUCTION = """\
`lensdiff init` writes a commented example, `lensdiff run lensdiff.toml` does what it says. A key that is left out has
its default; a key that is not known, a value out of its range and keys that contradict each other are refused before
any work begins. Relative paths are meant from the folder of the file."""


def page_of_keys() -> str:
    """Return the page."""
    fields = WholeConfig.model_fields
    own = {analysis.name for analysis in TABLES}
    kinds = {name: field.annotation for name, field in fields.items() if name not in own}
    inner: dict[str, Any] = {name: kind for name, kind in kinds.items() if _is_table(kind)}  # [controls] and the like
    top = {name: field for name, field in fields.items() if name not in own | {*inner, "prompt"}}
    own_prompts = "A prompt of the config's own; give as many as you like."
    parts = [INTRODUCTION, "## The whole run", keys(top)]
    parts += ["## [[prompt]] { #prompt }", own_prompts, keys(PromptEntry.model_fields)]
    parts += ["### Messages of a chat { #messages }", keys(MessageEntry.model_fields)]
    for name, kind in inner.items():
        parts += [f"## [{name}] {{ #{name} }}", " ".join(_doc(kind).split()), keys(kind.model_fields)]
    for analysis in TABLES:
        said = f"{analysis.question}. {analysis.more}".strip()
        parts += [f"## [{analysis.name}] {{ #{analysis.name} }}", said, keys(analysis.options.model_fields)]
    parts += ["## The example", f"What `lensdiff init` writes:\n\n```toml\n{example().strip()}\n```"]
    return page("Configuration", *parts)


def _is_table(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Options)


def _doc(kind: type) -> str:
    """Return a class' docstring, or that of the nearest class that has one."""
    return next((base.__doc__ for base in kind.__mro__ if base.__doc__), "") or ""


def keys(fields: Mapping[str, FieldInfo]) -> str:
    """Return the table of some keys."""
    rows = [
        (code(name), cell(field.description or ""), cell(type_of(field)), _default(field))
        for name, field in fields.items()
    ]
    return table(HEAD, rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "" if value is None else code(json.dumps(value, ensure_ascii=False).replace("|", "\\|"))


def type_of(field: FieldInfo) -> str:
    """Return a field's type in words, with its bounds; None is left to its help."""
    if are_layers(field):
        return "list of layers"
    return _words(field.annotation, list(field.metadata))


def _words(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _words(inner, [*metadata, *more])
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        return " or ".join(json.dumps(part) for part in parts)
    bounds = _bounds(metadata)
    if get_origin(annotation) is list:
        return f"list of {_words(parts[0], [])}{bounds}"
    if parts:
        return " or ".join(_words(part, metadata) for part in parts)
    return (
        f"{NAMES.get(annotation, 'table')}{bounds.replace('at least 1', 'not empty') if annotation is str else bounds}"
    )


def _bounds(metadata: list[Any]) -> str:
    """Return the limits that metadata set, in words."""
    inner = [part for item in metadata for part in (getattr(item, "metadata", None) or [item])]
    found = []
    for item in inner:
        for name, sign in BOUNDS.items():
            limit = getattr(item, name, None)
            if limit is not None:
                found.append(f"{sign} {limit}")
        if getattr(item, "allow_inf_nan", None) is False:
            found.append("finite")
    return f", {', '.join(dict.fromkeys(found))}" if found else ""
