"""What an object shows where it is printed: a few short lines, whatever it holds.

    what it is, of which models
      how large it is; what stands beside it
      what was found (at most as many lines as are left)
      next: calls that lead on

In a notebook the widget is shown, where there is one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lensdiff.results.errors import InputError
from lensdiff.results.numbers import n_of

if TYPE_CHECKING:
    from lensdiff.results.provenance import Provenance

LINES, WIDTH = 8, 118
CUT = "..."
ROW = "row"
COUNTED = {  # axes that a reader counts, and what one of each is called; the others say nothing of how much was read
    "prompt": "prompt",
    "text": "text",
    "word": "word",
    "layer": "layer",
    "head_index": "head",
    "head": "head",
    "component": "component",
    "part": "part",
    "in_pos": "prompt token",
    "out_pos": "response token",
    "pos": "token",
    "position": "position",
    "token": "token",
    "pair": "word pair",
    "d_head": "dimension",
    "verb": "verb",
    "group": "group",
    "window": "window",
    "point": "point",
    "draw": "draw",
}
EACH = {"layer": ("head_index", "component"), "head_index": ("d_head",)}  # so many in each of those


def printed(title: str, lines: Sequence[str] = (), *, calls: Sequence[str] = (), notice: str = "") -> str:
    """Return the lines of an object, cut to `LINES` of `WIDTH` characters; the notice stands first and whole.

    Args:
        title: what it is, of which models.
        lines: what it holds, the most important first: the last ones give way.
        calls: what to call next, "name(...)" each.
    """
    head = [notice, *_title(title)] if notice else _title(title)
    tail = [f"  next: {', '.join(calls)}"] if calls else []
    room = LINES - len(head) - len(tail)
    shown = list(lines)[:room]
    if len(lines) > room:
        shown[-1:] = [f"  {CUT} and {len(lines) - room + 1} more"]
    return "\n".join([*head, *(line if line in (notice, *tail) else shortened(line) for line in (*shown, *tail))])


def shortened(line: str, width: int = WIDTH) -> str:
    """Return a line of at most so many characters on one line, its end cut off."""
    line = " ".join(line.splitlines()) if "\n" in line or "\r" in line else line
    return line if len(line) <= width else line[: width - len(CUT)] + CUT


def _title(title: str) -> list[str]:
    """Return a title on one line; a long one on two, each name cut where it has to be."""
    if len(title) <= WIDTH:
        return [title]
    before, arrow, after = title.partition(" -> ")
    return [shortened(before), shortened(f"  -> {after}")] if arrow else [shortened(title)]


def models_of(origin: "Provenance") -> str:
    """Return the models that a result is of: one, or base and tuned one."""
    base = origin.options.get("base")
    return f"{base} -> {origin.model}" if isinstance(base, str) and base not in origin.model else origin.model


def sizes(result: Any) -> str:
    """Return how much was read, as a reader counts it, and how many controls stand beside it."""
    found = _axes(result)
    within = {inner: outer for outer, inners in EACH.items() for inner in inners if outer in found}
    said = []
    for axis in sorted(found.keys() & COUNTED.keys(), key=list(COUNTED).index):
        each = " each" if axis in within else ""
        said.append(n_of(found[axis], COUNTED[axis]) + each)
    if ROW in found:
        said.insert(0, n_of(found[ROW], ROW) + (f", each a {result.row_is}" if result.row_is else ""))
    counts: Mapping[str, int] = result.provenance.control_counts
    beside = [f"beside controls: {', '.join(f'{n} {kind}' for kind, n in counts.items())}"] if counts else []
    return "; ".join([*beside, *([", ".join(said)] if said else [])])


def _axes(result: Any) -> dict[str, int]:
    """Return the axes of a result's arrays, and how long each is."""
    from torch import Tensor  # not above: what is printed of prompts and words is known before it is imported

    from lensdiff.results.fields import axes_of

    found: dict[str, int] = {}
    for name, axes in axes_of(type(result)).items():
        value = getattr(result, name)
        if isinstance(value, Tensor) and len(axes) == value.ndim:
            found |= dict(zip(axes, value.shape, strict=True))
    return found


def widget_html(shown: Any) -> str | None:
    """Return the widget of what has a `show`; None where there is no view of it: the text is shown then."""
    try:
        return shown.show()._repr_html_()
    except InputError:
        return None
