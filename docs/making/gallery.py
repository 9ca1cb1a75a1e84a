"""The toy pair's report as a page of the site: made by `lensdiff demo` in a folder that is kept between builds."""

import os
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = "gallery/toy-pair.html"


def run_folder() -> Path:
    """Return the folder of the toy pair's run: build/demo, or what LENSDIFF_DOCS_RUN names."""
    return Path(os.environ.get("LENSDIFF_DOCS_RUN", ROOT / "build" / "demo"))


@cache
def report() -> str | None:
    """Return the toy pair's report; None where it was not run."""
    path = run_folder() / "report.html"
    return path.read_text(encoding="utf-8") if path.exists() else None


def lost(page: str, report: str) -> list[str]:
    """Return a sentence for each place of the report that a page leads to and that is not there."""
    named = dict.fromkeys(re.findall(rf"{re.escape(PAGE)}#([\w-]+)", page))
    return [f"the report has no place {name!r}" for name in named if f'id="{name}"' not in report]
