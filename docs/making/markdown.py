"""Markdown of values: cells, tables, headings."""

import re
from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Return a text as a cell of a table: one line, its bars and angles shown and not obeyed."""
    line = " ".join(str(text).split())
    outside = re.split(r"(`[^`]*`)", line)
    shown = [part if part.startswith("`") else _escaped(part) for part in outside]
    return "".join(shown).replace("|", "\\|")


def _escaped(text: str) -> str:
    for sign, code in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("*", "&#42;"), ("_", "&#95;"), ("[", "&#91;")):
        text = text.replace(sign, code)
    return text


def code(text: object) -> str:
    """Return a text as code within a line."""
    return f"`{text}`" if str(text) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of cells that are Markdown already (see `cell`)."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def page(title: str, *parts: str) -> str:
    """Return a page: its title, and parts with an empty line between."""
    return "\n\n".join([f"# {title}", *(part for part in parts if part)]) + "\n"
