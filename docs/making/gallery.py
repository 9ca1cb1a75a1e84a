"""Reports as pages of the site: the toy pair's, made by `lensdiff demo`, and those of real pairs that were run."""

import os
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOY = "toy-pair"
RUNS = {  # what their experiments write; none of a model, or of the prompts that it read, is a part of the project
    "smollm2-lora": ROOT / "results" / "lora_smollm2" / "run",
    "gemma3-sft": ROOT / "results" / "gemma3_sft" / "held_out",
}
NOT_HERE = "*This site was built where the report had not been made: the commands above make it.*"


def run_folder(name: str = TOY) -> Path:
    """Return the folder of a run; the toy pair's is build/demo, or what LENSDIFF_DOCS_RUN names."""
    if name == TOY:
        return Path(os.environ.get("LENSDIFF_DOCS_RUN", ROOT / "build" / "demo"))
    return RUNS[name]


def page_of(name: str) -> str:
    """Return the address of a report in the site."""
    return f"gallery/{name}.html"


@cache
def report(name: str = TOY) -> str | None:
    """Return the report of a run; None where it was not made."""
    path = run_folder(name) / "report.html"
    return path.read_text(encoding="utf-8") if path.exists() else None


def reports() -> dict[str, str]:
    """Return the reports that are there, by name."""
    return {name: found for name in (TOY, *RUNS) if (found := report(name)) is not None}


def filled(page: str, reports: dict[str, str]) -> str:
    """Return a page whose links to reports that were not made are words, with a sentence in place of each button."""
    for name in (name for name in RUNS if name not in reports):
        link = rf"\[([^\]]*)\]\({re.escape(page_of(name))}[^)]*\)"
        page = re.sub(rf"{link}\{{[^}}]*\}}", NOT_HERE, page)
        page = re.sub(link, r"\1", page)
    return page


def lost(page: str, reports: dict[str, str]) -> list[str]:
    """Return a sentence for each place of a report that a page leads to and that is not there."""
    return [
        f"the report of {name} has no place {place!r}"
        for name, report in reports.items()
        for place in dict.fromkeys(re.findall(rf"{re.escape(page_of(name))}#([\w-]+)", page))
        if f'id="{place}"' not in report
    ]
