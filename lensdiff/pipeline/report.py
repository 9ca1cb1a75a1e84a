"""The report: one self-contained HTML file about a pair, from a results directory.

The page's frame is here: what was compared, the three claims, then the sections that analyses registered, then where it
all comes from. It opens from disk, asks for nothing, and holds circuitsvis once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensdiff.analyses.attention import section as _a  # noqa: F401
from lensdiff.analyses.attribute import section as _b  # noqa: F401
from lensdiff.analyses.claims.measure import Claims
from lensdiff.analyses.heads import section as _c  # noqa: F401
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use import section as _d  # noqa: F401
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.mlp import section as _e  # noqa: F401
from lensdiff.analyses.outputs import section as _f  # noqa: F401
from lensdiff.analyses.value_rotation import section as _g  # noqa: F401
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.analyses.weights import section as _h  # noqa: F401
from lensdiff.models.equality import EQUAL_WEIGHTS
from lensdiff.results import InputError, ResultStore
from lensdiff.views.section import Section, Table, cell, sections
from lensdiff.views.show import show
from lensdiff.views.widget import Widget, page, templates

SIDES = ("base", "tuned")
SHARED_STEP = "responses"
OF_RESPONSES = {"instruction_use", "attribution", "outputs", "attention"}
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
CLAIMS_CAPTION = "A row per claim: its effect, p, p after Holm's correction, and the limits of all kinds of controls."
KINDS_CAPTION = (
    "A row per claim and kind of control: how many, how many are ruined models, their median, band and rank p."
)
MOST_FAILURES = 5  # that are told one by one


@dataclass(frozen=True, eq=False)
class _Shown:
    """A section as the template takes it."""

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
            InputError: a file of the directory is unreadable.
        """
        store = self.store
        names = {side: str(store.manifest.pair.get(side, {}).get("model", side)) for side in SIDES}
        answers = store.load_result("claims", Claims) if store.has("claims") else None
        every = [self._show(section) for section in sections()]
        body = templates.get_template("report.html.j2").render(
            names=names,
            notice=store.manifest.pair.get("notice"),
            facts=_facts(store.manifest.pair),
            differences=_differences(store),
            comparable=store.manifest.pair.get("comparable"),
            run=_run_facts(store),
            claims="" if answers is None else show(answers).fragment(),
            unfinished=any(state.state == "running" for state in store.manifest.steps.values()),
            claims_tables=_claim_tables(answers),
            shown=[found for found in every if found.parts],
            absent=[found for found in every if not found.parts],
            versions=store.manifest.versions,
            seed=store.manifest.config.get("seed"),
            steps=_steps(store),
            config=json.dumps(store.manifest.config, indent=2, ensure_ascii=False),
        )
        return page(f"lensdiff: {names['base']} and {names['tuned']}", body)

    def save(self, path: str | Path | None = None) -> Path:
        """Write the page to a file, by default `report.html` in the results directory, and return its path."""
        text = self.html()
        if path is None:
            return self.store.write_text("report.html", text)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def _show(self, section: Section) -> _Shown:
        return _Shown(section, [_part(item) for item in section.build(self.store)], _notes(self.store, section))


def _part(item: Widget | Table | str) -> str:
    if isinstance(item, Widget):
        return templates.get_template("part.html.j2").render(title=item.title, fragment=item.fragment())
    if isinstance(item, Table):
        return item.html()
    return templates.from_string("<p>{{ text }}</p>").render(text=item)


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
    if not store.has_table("differences"):
        return None
    frame: pd.DataFrame = store.load_table("differences").fillna("").astype(str)
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records") if row["what"] != EQUAL_WEIGHTS]


def _claim_tables(answers: Claims | None) -> str:
    if answers is None:
        return ""
    tables = (
        Table("claims", answers.to_df(), CLAIMS_CAPTION),
        Table("claim_controls", answers.controls(), KINDS_CAPTION),
    )
    return "".join(table.html() for table in tables)


def _run_facts(store: ResultStore) -> list[str]:
    """Return what a reader must know of the run before any number: of the controls, what was made."""
    found, config = [], store.manifest.config
    asked = set(config.get("analyses", OF_RESPONSES))
    if "max_new_tokens" in config and asked & OF_RESPONSES:
        found.append(f"each model's own greedy response, at most {config['max_new_tokens']} tokens")
    made = [f"{text} for {name}" for name, text in _controls_made(store).items() if text]
    if made:
        found.append(f"controls, meaningless changes of the base: {'; '.join(made)}")
    return found


def _controls_made(store: ResultStore) -> dict[str, str]:
    """Return how many controls of each kind stand beside what, as their results say."""
    numbers: dict[str, list[str]] = {}
    if store.has("instruction_use"):
        numbers["instruction use"] = list(store.load_result("instruction_use", InstructionUse).control_kinds[2:])
    if store.has("verb_shift"):
        numbers["heads"] = list(store.load_result("verb_shift", VerbShift).control_kinds)
    if store.has("value_rotation"):
        numbers["rotation"] = list(store.load_result("value_rotation", ValueRotation).control_kinds)
    return {
        name: ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        for name, kinds in numbers.items()
    }


def _notes(store: ResultStore, section: Section) -> list[str]:
    """Return what went wrong in a section's steps; nothing of what several share where its own were not asked for."""
    notes = []
    if not any(name in store.manifest.steps for name in section.steps if name != SHARED_STEP):
        return notes
    for name in section.steps:
        state = store.step(name)
        if state.state == "running":
            notes.append(f"{name}: not finished, {len(state.done)} of {state.units} units are done")
        elif state.state in ("failed", "skipped") and state.note:
            notes.append(f"{name}: {state.note}")
        failures = list(state.failures.items())
        notes += [f"{name}, {unit}: {reason}" for unit, reason in failures[:MOST_FAILURES]]
        if len(failures) > MOST_FAILURES:
            notes.append(f"{name}: {len(failures) - MOST_FAILURES} more units failed")
    return notes


def _steps(store: ResultStore) -> list[tuple[str, str, str]]:
    return [
        (name, state.state, f"{state.seconds:.1f} s" if state.seconds else "")
        for name, state in store.manifest.steps.items()
    ]
