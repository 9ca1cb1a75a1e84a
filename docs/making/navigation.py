"""The sections of the navigation that are folders, and what begins a notebook's page."""

import tomllib
from pathlib import Path
from typing import Any

from docs.making import api
from docs.making.markdown import cell, page, table
from lensdiff.analyses import ANALYSES

ROOT = Path(__file__).parents[2]
UNDERSTAND = "understand/index.md"
HOSTS = {"https://github.com/": "https://colab.research.google.com/github/"}


def filled(nav: list[Any], docs: Path) -> list[Any]:
    """Return a navigation whose entries `folder/*` are the folder's pages; a section without a page is left out."""
    found = []
    for entry in nav:
        [(title, inside)] = entry.items() if isinstance(entry, dict) else [("", entry)]
        if isinstance(inside, list):
            inside = filled(inside, docs)
        elif inside.endswith("/*"):
            inside = of_folder(inside.removesuffix("/*"), docs)
        if inside:
            found.append({title: inside} if title else inside)
    return found


def of_folder(name: str, docs: Path) -> list[Any]:
    """Return the pages of a folder, in the order in which they are read."""
    if name == "reference/api":
        return api.entries()
    if name == "notebooks":
        return [f"notebooks/{notebook.name}" for notebook in notebooks()]
    pages = [path.relative_to(docs).as_posix() for path in sorted((docs / name).glob("*.md"), key=_place)]
    if name == "understand":
        return [UNDERSTAND, *pages, *["controls.md"] * (docs / "controls.md").exists()]
    return pages


def _place(page: Path) -> tuple[bool, int, str]:
    """Return an index first, then pages of no analysis by name, then those of analyses in their order.

    An analysis that no run has (published) comes last.
    """
    order = [analysis.name for analysis in ANALYSES]
    name = page.stem.replace("-", "_")
    is_apart = name not in order and (ROOT / "lensdiff" / "analyses" / name).is_dir()
    return (page.stem != "index", order.index(name) + 1 if name in order else is_apart * (len(order) + 1), name)


def page_of_questions(docs: Path) -> str:
    """Return the page with which the section begins that explains the analyses: their questions, from `ANALYSES`."""
    rows = []
    for analysis in ANALYSES:
        name, verb = analysis.name, analysis.name.replace("_", "-")
        is_there = (docs / "understand" / f"{name}.md").exists()
        question = f"[{cell(analysis.question)}]({name}.md)" if is_there else cell(analysis.question)
        command = f"[`{verb}`](../reference/commands.md#{verb})" if analysis.done != "always" else "in every report"
        rows.append((question, command, cell(analysis.beside)))
    text = (
        "Each analysis asks one question. Its page says by which formula, in which unit and with which sign, what the "
        "number can say and what it cannot, and what stands beside it."
    )
    return page("Understand", text, table(("question", "command", "beside it"), rows))


def notebooks() -> list[Path]:
    """Return the notebooks, in their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def repository() -> str:
    """Return the address of the project's repository; empty where pyproject.toml has none."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    named = {name.lower(): url for name, url in urls.items()}
    return next((named[name].rstrip("/") for name in ("repository", "source") if name in named), "")


def opening(name: str) -> str:
    """Return what stands above a notebook: where it opens."""
    links = [f'<a class="md-button" href="{name}" download>Download the notebook</a>']
    for host, colab in HOSTS.items():
        if repository().startswith(host):
            path = repository().removeprefix(host)
            links.append(f'<a class="md-button" href="{colab}{path}/blob/main/notebooks/{name}">Open in Colab</a>')
    return f'<p class="notebook-opening">{" ".join(links)}</p>\n'
