"""A widget is a piece of a page: escaped HTML, and JSON that a script of the page brings to life.

Safety: HTML comes from templates that escape; JSON is escaped so that no token can end its script element (circuitsvis
inlines its props unescaped, and writes tokens as HTML: `inert` of the page's script keeps them text). The page forbids
every request by its content-security policy, so it is the same with and without a network.
"""

import base64
import html
import itertools
import json
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from lensdiff.results.paths import as_path, put_text

Role = Literal["base", "tuned", "control", "model"]  # whose colour a part of a view takes

# the frame becomes as tall as its page says, and tells it whether what lies behind is dark; where a notebook runs no
# scripts of an output it keeps its height, and follows the system's theme
FITTED = """
const frame = this, page = frame.contentWindow;
window.addEventListener('message', (event) => {
  const height = event.source === page && event.data ? Number(event.data.lensdiff) : 0;
  if (height > 0) frame.style.height = Math.min(height, 20000) + 'px';
});
const tell = () => {
  let seen = frame, parts = null;
  while (seen && !parts) {
    const found = (getComputedStyle(seen).backgroundColor.match(/[0-9.]+/g) || []).map(Number);
    if (found.length > 2 && (found.length < 4 || found[3] > 0.5)) parts = found;
    seen = seen.parentElement;
  }
  const light = !parts || 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 127;
  page.postMessage({ lensdiff: parts ? (light ? 'light' : 'dark') : matchMedia('(prefers-color-scheme: dark)').matches
    && getComputedStyle(document.documentElement).colorScheme.includes('dark') ? 'dark' : 'light' }, '*');
};
tell();
new MutationObserver(tell).observe(document.body, { attributes: true });
"""
_ids = itertools.count(1)
_packages: dict[str, None] = {}  # beside lensdiff's own, in order
_JSON_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}

templates = Environment(
    loader=PackageLoader("lensdiff.views", "static"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@runtime_checkable
class ViewData(Protocol):
    """What the script of a view is given: a dataclass, whose fields are the keys that the script reads.

    Its fields hold texts, numbers, bool, None, further dataclasses, and sequences and dicts of these.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def script_json(data: Any) -> str:
    """Return a view's data as JSON that is safe inside a script element: a dataclass becomes an object of its fields.

    Raises:
        ValueError: NaN and infinity, which JSON does not know.
        TypeError: a value that JSON cannot hold.
    """
    text = json.dumps(data, default=_fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _JSON_ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _fields(value: Any) -> dict[str, Any]:
    if not is_dataclass(value):
        raise TypeError(f"a page's script can be given no {type(value).__name__}")
    return {found.name: getattr(value, found.name) for found in fields(value)}


def packed(values: Tensor) -> str:
    """Return numbers from -1 to 1 as base64 of signed bytes, row after row: all that a colour can show of them."""
    return base64.b64encode((values.clamp(-1, 1) * 127).round().to(torch.int8).numpy().tobytes()).decode("ascii")


@dataclass(frozen=True, eq=False)
class Widget:
    """One view, to be shown inline, saved as a page of its own, or placed in a larger page.

    Attributes:
        view: name of the function in the page's script that draws it (`LensDiff.views[view](element, data)`).
        data: what that function is given.
        title: heading of a page of its own.
        circuitsvis: whether it needs the circuitsvis bundle.
        height: of the inline frame, in pixels.
        fallback: escaped HTML for readers without scripts; tables say what pictures show.
        notice: what stands above everything else on a page of its own; a larger page has said it already.
    """

    view: str
    data: ViewData
    title: str = ""
    circuitsvis: bool = False
    height: int = 480
    fallback: str = field(default="")
    notice: str = ""

    def fragment(self) -> str:
        """Return the widget as a piece of a page that holds lensdiff's scripts."""
        return (
            f'<div class="ld-widget" id="ld-{next(_ids)}" data-view="{html.escape(self.view)}">'
            f'<script type="application/json">{script_json(self.data)}</script>'
            f"<noscript>{self.fallback}</noscript></div>"
        )

    def html(self) -> str:
        """Return a self-contained page."""
        return page(self.title, notice_html(self.notice) + self.fragment(), circuitsvis=self.circuitsvis)

    def save(self, path: str | Path) -> Path:
        """Write the self-contained page and return its path."""
        return put_text(as_path(path, "a page"), self.html())

    def _repr_html_(self) -> str:
        # a frame keeps the notebook's styles out and the page's content-security policy in
        return (
            f'<iframe srcdoc="{html.escape(self.html())}" sandbox="allow-scripts allow-downloads" '
            f'style="width:100%;height:{self.height}px;border:0" title="{html.escape(self.title)}" '
            f'onload="{html.escape(" ".join(FITTED.split()))}"></iframe>'
        )


def notice_html(notice: str) -> str:
    """Return the first line of a page, escaped; nothing where there is nothing to say."""
    return f'<p class="ld-warning">{html.escape(notice)}</p>\n' if notice else ""


def page(title: str, body: str, *, circuitsvis: bool = True) -> str:
    """Return a whole page around escaped HTML, with every script and style in it once and no request allowed."""
    packages = tuple(_packages)
    scripts = [*([bundle()] if circuitsvis else []), _static(".js", packages)]
    style = _static(".css", packages)
    return templates.get_template("page.html.j2").render(title=title, body=body, style=style, scripts=scripts)


@cache
def bundle() -> str:
    """Return circuitsvis's script below its licence, made safe to inline: its own source, never a remote one."""
    source = files("circuitsvis").joinpath("dist", "cdn", "iife.js").read_text(encoding="utf-8")
    about = distribution("circuitsvis")
    licence = "".join(file.read_text() for file in about.files or [] if file.name.startswith("LICENSE"))
    source = f"/*! circuitsvis {about.version}\n{licence.replace('*/', '')}*/\n{source}"
    return source.replace("</script>", "<\\/script>").replace("//# sourceMappingURL=iife.js.map", "")


def with_scripts_of(package: str) -> None:
    """Let every page from now on hold the scripts and styles of a package; those of lensdiff's own are always there."""
    if not package.startswith("lensdiff."):
        _packages[package] = None


@cache
def _static(suffix: str, packages: tuple[str, ...]) -> str:
    """Return all scripts, or all styles, as one text: those that views share, then those beside each view."""
    folders = [files("lensdiff.views").joinpath("static"), *_folders(files("lensdiff").joinpath("analyses"))]
    folders += [files(package) for package in packages]
    found = [item for folder in folders for item in _named(folder) if item.name.endswith(suffix)]
    # lensdiff.js defines what the views' own scripts add to, and starts them once the page is there
    found.sort(key=lambda item: item.name != f"lensdiff{suffix}")
    return "\n".join(item.read_text(encoding="utf-8") for item in found)


def _folders(folder: Traversable) -> list[Traversable]:
    return [item for item in _named(folder) if item.is_dir()]


def _named(folder: Traversable) -> list[Traversable]:
    return sorted(folder.iterdir(), key=lambda item: item.name)
