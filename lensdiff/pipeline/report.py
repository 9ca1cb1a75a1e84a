"""The report: one self-contained HTML file about a pair, from a results directory.

The page's frame is here: what was compared, then the section of every analysis, the answers first, then where it all
comes from. It opens from disk, asks for nothing, and holds circuitsvis once.
"""

import html
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensdiff.analyses import ANALYSES
from lensdiff.models.equality import EQUAL_WEIGHTS
from lensdiff.pipeline.changed import first_section, headlines
from lensdiff.pipeline.graph import steps_of
from lensdiff.results import InputError, ResultStore
from lensdiff.results.numbers import n_of
from lensdiff.results.paths import as_path, put_text
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.found import Found
from lensdiff.steps.headline import Headline
from lensdiff.steps.responses import CONTROL_RESPONSES, RESPONSES, SaidResponse
from lensdiff.steps.said import answers
from lensdiff.steps.unit import SIDES
from lensdiff.steps.validity import VALIDITY
from lensdiff.views.section import Section, Table, cell
from lensdiff.views.widget import Widget, notice_html, page, templates

SHARED = (
    RESPONSES.name,
    CONTROL_RESPONSES.name,
    VALIDITY.name,
)  # steps that several analyses share: of no section alone
FACTS = {
    "architecture": "",
    "n_layers": "layers",
    "n_heads": "heads",
    "d_model": "d_model",
    "d_vocab": "vocabulary",
    "parameters": "parameters",
    "dtype": "",
    "weights": "weights",
    "revision": "revision",
}
APART = [analysis.name for analysis in ANALYSES if analysis.done == "apart"]  # no run lacks one of them
HOW = {
    "raw": "prompts are raw, without a chat template",
    "chat": "both models read the prompts in the tuned model's chat template",
}
MOST_FAILURES = 5  # that are told one by one


@dataclass(frozen=True, eq=False)
class _Shown:
    """A section as the template takes it."""

    name: str
    section: Section
    parts: list[str]
    notes: list[str]


class Report:
    """The report of a results directory; it reads the directory anew whenever it is written.

    Attributes:
        store: the results directory.
    """

    def __init__(self, results: ResultStore | str | Path):
        self.store = results if isinstance(results, ResultStore) else ResultStore(results)
        if not self.store.exists():
            raise InputError(f"{self.store.root} is no results directory of lensdiff: it has no manifest.json")

    def html(self) -> str:
        """Return the page.

        Raises:
            InputError: a file of the directory is unreadable, or not what the run wrote.
        """
        store = self.store
        names = {side: str(store.manifest.pair.get(side, {}).get("model", side)) for side in SIDES}
        every = [_shown(store, analysis, section) for analysis, section in in_order(ANALYSES)]
        body = templates.get_template("report.html.j2").render(
            names=names,
            notice=store.manifest.pair.get("notice"),
            facts=_facts(store.manifest.pair),
            about=about(store),
            differences=_differences(store),
            comparable=store.manifest.pair.get("comparable"),
            run=_run_facts(store),
            changed=first_section(store, names),
            shown=[found for found in every if found.parts],
            absent=[found for found in every if not found.parts and found.name not in APART],
            versions=store.manifest.versions,
            seed=store.manifest.config.get("seed"),
            steps=_steps(store),
            config=json.dumps(store.manifest.config, indent=2, ensure_ascii=False),
        )
        return page(f"lensdiff: {names['base']} and {names['tuned']}", body)

    def summary(self) -> tuple[Headline, ...]:
        """Return what changed: the lines of the page's first section, and of the terminal, in their order.

        Kind by kind (responses, tokens, words, heads, matrices, layers), of each at most five but of responses; a run
        of few analyses has just theirs. `pandas.DataFrame` makes a table of it.

        Raises:
            InputError: as `html`.
        """
        return headlines(self.store, answers(Found(self.store)))

    def save(self, path: str | Path | None = None) -> Path:
        """Write the page to a file, by default `report.html` in the results directory, and return its path."""
        text = self.html()
        if path is None:
            return self.store.write_text("report.html", text)
        return put_text(as_path(path, "a report"), text)


def in_order(analyses: Iterable[Analysis[Any]]) -> list[tuple[Analysis[Any], Section]]:
    """Return analyses with their sections, in the order of these."""
    return sorted(((analysis, analysis.section) for analysis in analyses), key=lambda pair: pair[1].order)


def sections_page(store: ResultStore, title: str, analyses: Iterable[Analysis[Any]]) -> str:
    """Return a page with the sections of some analyses, as far as there are results for them."""
    parts = [notice_html(store.manifest.pair.get("notice") or "")]
    parts += [f"<p>{html.escape(line.capitalize())}.</p>" for line in rendered_as(Found(store))]
    for _, section in in_order(analyses):
        if content := section.build(Found(store)):
            parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.how)}</p>")
            parts += [_fragment(item) for item in content]
    return page(title, "\n".join(parts))


def _fragment(item: Widget | Table | str) -> str:
    if isinstance(item, Widget):
        return f"<h3>{html.escape(item.title)}</h3>{item.fragment()}"
    return item.html() if isinstance(item, Table) else f"<p>{html.escape(item)}</p>"


def _shown(store: ResultStore, analysis: Analysis[Any], section: Section) -> _Shown:
    return _Shown(
        analysis.name, section, [_part(item) for item in section.build(Found(store))], _notes(store, analysis)
    )


def _part(item: Widget | Table | str) -> str:
    if isinstance(item, Widget):
        return templates.get_template("part.html.j2").render(title=item.title, fragment=item.fragment())
    if isinstance(item, Table):
        return item.html()
    return templates.from_string("<p>{{ text }}</p>").render(text=item)


def about(store: ResultStore) -> str:
    """Return what this pair is, in the config's words, else as far as the models say it; or an empty text."""
    said = str(store.manifest.config.get("about") or "")
    if said:
        return said
    base, tuned = (store.manifest.pair.get(side, {}) for side in SIDES)
    size, layers = base.get("parameters"), base.get("n_layers")
    if not size or not layers or any(base.get(name) != tuned.get(name) for name in ("architecture", "n_layers")):
        return ""
    kind = base.get("architecture", "a model")
    return (
        f"The tuned model is taken to be the base ({kind}, {_rounded(size)} parameters in {n_of(layers, 'layer')}) "
        "after further training."
    )


def _rounded(n: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if n >= size:
            return f"{n / size:.3g} {name}"
    return str(n)


def _facts(pair: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the rows of the pair's table: a name, and the values of base and tuned."""
    rows = []
    for name in FACTS:
        values = [pair.get(side, {}).get(name) for side in SIDES]
        if any(value is not None for value in values):
            rows.append((FACTS[name], [_readable(value) for value in values]))
    return rows


def _readable(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else cell(value)


def _differences(store: ResultStore) -> list[dict[str, str]] | None:
    """Return what differs beside the weights, or None where it was not recorded; the notice stands above."""
    frame = Found(store).table("differences")
    if frame is None:
        return None
    rows = frame.fillna("").astype(str).to_dict("records")
    return [{str(k): v for k, v in row.items()} for row in rows if row["what"] != EQUAL_WEIGHTS]


def _run_facts(store: ResultStore) -> list[str]:
    """Return what a reader must know of the run before any number, as its results say: not what was asked for."""
    found = Found(store)
    told = rendered_as(found)
    lengths = {
        int(most)
        for unit in found.units(RESPONSES.name)
        if (most := found.one(RESPONSES.name, SaidResponse, unit).provenance.options.get("max_new_tokens"))
    }
    if lengths:
        told.append(f"each model's own greedy response, at most {n_of(max(lengths), 'token')}")
    if store.manifest.pair.get("stream"):
        told.append(
            "weights were read layer by layer and no model was built: nothing that needs a forward pass, and no "
            "control made of gradients, stands beside them, and whether the others still are language models was not "
            "checked"
        )
    made = [f"{text} for {name}" for name, text in _controls_made(found).items() if text]
    if made:
        told.append(f"controls, meaningless changes of the base: {'; '.join(made)}")
    return told


def rendered_as(found: Found) -> list[str]:
    """Return in a line how the prompts were rendered of which there are responses; nothing where there are none."""
    units = found.units(RESPONSES.name)
    ways = {found.one(RESPONSES.name, SaidResponse, unit).provenance.template for unit in units}
    return [HOW[way] for way in sorted(ways)]


def _controls_made(found: Found) -> dict[str, str]:
    """Return how many controls of each kind stand beside what, as their results say."""
    numbers: dict[str, list[str]] = {}
    for analysis in ANALYSES:
        numbers |= analysis.controls_beside(found)
    return {
        name: ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        for name, kinds in numbers.items()
    }


def _notes(store: ResultStore, analysis: Analysis[Any]) -> list[str]:
    """Return what went wrong in an analysis' steps; nothing of what several share where its own were not asked for."""
    notes: list[str] = []
    steps = [step.name for step in steps_of([analysis])[1:]]  # the first is the pair's
    if not any(store.step(name).wanted for name in steps if name not in SHARED):
        return notes
    for name in steps:
        state = store.step(name)
        if state.state == "running" and not store.manifest.ended:
            notes.append(f"{name}: not finished, {len(state.done)} of {n_of(len(state.wanted), 'unit')} done")
        elif state.note:
            notes.append(f"{name}: {state.note}")
            continue
        failures = list(state.failures.items())
        notes += [f"{name}, {unit}: {reason}" for unit, reason in failures[:MOST_FAILURES]]
        if len(failures) > MOST_FAILURES:
            notes.append(f"{name}: {n_of(len(failures) - MOST_FAILURES, 'more unit')} failed")
    tables = [store.manifest.tables.get(table.name) for table in analysis.tables]
    return list(dict.fromkeys([*notes, *(table.note for table in tables if table is not None and table.note)]))


def _steps(store: ResultStore) -> list[tuple[str, str, str]]:
    return [
        (name, state.state, f"{state.seconds:.1f} s" if state.seconds else "")
        for name, state in store.manifest.steps.items()
        if state.wanted
    ]
