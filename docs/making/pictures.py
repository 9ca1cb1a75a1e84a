"""The pictures of the pages under docs/understand: python -m docs.making.pictures DIR [--published CLONE] [NAME ...]

DIR is a results directory of `lensdiff demo`. A page's picture is its analysis' first view in the report of that
directory, taken in a headless Chromium; statistics, annotation and the published tables, which no run has, are drawn
here. `--published` is a clone of the authors' repository.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lensdiff import Report, load_published
from lensdiff.analyses import ANALYSES
from lensdiff.analyses.annotate.shift import annotation_shift
from lensdiff.analyses.published.tables import published_tables
from lensdiff.stats import format_p, rank_band
from lensdiff.views import show
from tests.analyses.annotate.results import random_annotations

OUT = Path(__file__).parents[1] / "understand" / "pictures"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT = 900, 640  # of a picture, at most
COLOURS = 128
MOST_BYTES = 60_000
BASE, TUNED, CONTROL = "#2166ac", "#d95f02", "#999999"


def save(name: str, png: bytes) -> None:
    """Write a picture with few colours, and refuse one that is too large for a page."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path = OUT / f"{name}.png"
    image.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} is larger than {MOST_BYTES} bytes")


def shot(page: Page, selector: str) -> bytes:
    """Return a view from its top, as much of it as fits a page."""
    view = page.locator(selector).first
    view.scroll_into_view_if_needed()
    page.wait_for_timeout(1200)  # circuitsvis draws after the page is ready
    box = view.bounding_box()
    assert box is not None
    top = page.evaluate("window.scrollY")
    clip: Any = {"x": box["x"], "y": box["y"] + top, "width": box["width"], "height": min(box["height"], HEIGHT)}
    return page.screenshot(full_page=True, clip=clip)


def of_report(page: Page, directory: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the picture of every analysis that the report has a view of."""
    _open(page, Report(directory).html())
    for analysis in ANALYSES:
        selector = f"section#{analysis.name} .ld-widget"
        if analysis.name in names and page.locator(selector).count():
            yield analysis.name, shot(page, selector)


def annotations(page: Page) -> bytes:
    """Return the view of annotations that are made up: the labels are drawn at random."""
    made_up = (("base", 0.4, 1), ("tuned", 0.6, 2))
    base, tuned = (random_annotations(share, seed, model=name) for name, share, seed in made_up)
    _open(page, show(annotation_shift(base, tuned, n_resamples=199, layers_per_group=2)).html())
    page.get_by_text("literary_writing", exact=True).first.click()
    return shot(page, ".ld-widget")


def _open(page: Page, html: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(html)
        file.flush()
        page.goto(f"file://{file.name}")
        page.wait_for_function("document.querySelectorAll('.ld-widget:not([data-ready])').length === 0")
        page.wait_for_timeout(2000)


def statistics() -> bytes:
    """Draw three effects beside two kinds of controls: beyond both, between the two, within one."""
    draw = np.random.default_rng(0)
    kinds = {"gradient-noise": draw.normal(0.25, 0.03, 59), "spectrum": draw.normal(0.1, 0.03, 59)}
    effects = {"beyond both": 0.42, "between the kinds": 0.175, "within one": 0.12}
    figure, axes = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
    for row, (kind, values) in enumerate(kinds.items()):
        low, high = rank_band(values)
        axes.axvspan(float(low), float(high), color=CONTROL, alpha=0.25)
        axes.plot(values, np.full(len(values), row), ".", color=CONTROL)
        axes.text(float(high), row + 0.28, kind, color="#555555", ha="right")
    for row, (name, effect) in enumerate(effects.items(), start=2):
        axes.plot([effect], [row], "o", color=TUNED)
        axes.text(effect + 0.012, row, name, va="center")
    axes.set(yticks=[], xlabel="effect, tuned − base", xlim=(0, 0.55), ylim=(-0.5, 4.6))
    return _png(figure)


def published(clone: Path) -> bytes:
    """Draw the means of both tables as they come from the released files, of the sets that the clone holds."""
    tables = published_tables(load_published(clone))
    rows: list[tuple[Any, ...]] = [
        *((f"Table 1, {name}", row.unfollowed, row.followed, row.welch) for name, row in tables.table1.items()),
        *((f"Table 2, {name}", row.base, row.tuned, row.welch) for name, row in tables.table2.items()),
    ]
    figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
    places = np.arange(len(rows))
    for shift, column, colour, name in (
        (-0.19, 1, BASE, "unfollowed, or LLaMA"),
        (0.19, 2, TUNED, "followed, or Vicuna"),
    ):
        axes.bar(places + shift, [row[column].mean for row in rows], 0.36, color=colour, label=name)
    for place, row in enumerate(rows):
        if row[3] is not None and row[3].p is not None:
            axes.text(place, row[2].mean + 0.05, format_p(row[3].p), ha="center", fontsize=8)
    axes.set(xticks=places, xticklabels=[row[0] for row in rows], ylabel="instruction score, mean", ylim=(0, 2.1))
    axes.legend(frameon=False, ncols=2, loc="upper center")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="a results directory of lensdiff demo")
    parser.add_argument("names", nargs="*", help="pages; by default all")
    parser.add_argument("--published", type=Path, help="a clone of the authors' repository")
    given = parser.parse_args()
    every = [*(analysis.name for analysis in ANALYSES), "statistics-and-controls", "published"]
    names = given.names or every
    OUT.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name, png in of_report(page, given.directory, names):
            save(name, png)
        if "annotate" in names:
            save("annotate", annotations(page))
        browser.close()
    if "statistics-and-controls" in names:
        save("statistics-and-controls", statistics())
    if "published" in names and given.published is not None:
        save("published", published(given.published))


if __name__ == "__main__":
    main()
