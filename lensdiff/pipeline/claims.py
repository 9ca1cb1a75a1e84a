"""The three claims, answered from the results of a run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from lensdiff import stats
from lensdiff.analyses.claims.evidence import heads_evidence, instruction_evidence, rotation_evidence
from lensdiff.analyses.claims.measure import Claims, Evidence, claims
from lensdiff.analyses.claims.words import Made, Name
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.pipeline.both import SIDES
from lensdiff.results import Provenance, ResultStore

Answer = Callable[[ResultStore, pd.DataFrame | None], Evidence | str]
STEPS: dict[Name, tuple[str, str]] = {  # the step behind a claim, and the result that it rests on
    "instruction": ("instruction_use", "instruction_use"),
    "heads": ("verb_shift", "verb_shift"),
    "rotation": ("value_rotation", "value_rotation"),
}


def claims_of(store: ResultStore) -> Claims:
    """Answer the claims from a results directory, as far as its results go."""
    validity = store.load_table("control_validity") if store.has_table("control_validity") else None
    found: dict[Name, Evidence | str] = {}
    for name, (step, result) in STEPS.items():
        if store.has(result):
            found[name] = _with_lacking(EVIDENCE[name](store, validity), store)
        elif note := store.step(step).note:
            found[name] = note.rstrip(".")
    names = [str(store.manifest.pair.get(side, {}).get("model", side)) for side in SIDES]
    notice = store.manifest.pair.get("notice") or ""
    options = {"notice": notice} if notice else {}
    return claims(Provenance("claims", " -> ".join(names), options=options), found, {"instruction": _score(store)})


def _with_lacking(evidence: Evidence | str, store: ResultStore) -> Evidence | str:
    """Return the evidence with the kinds of controls of which every one failed, where some were to be made."""
    if isinstance(evidence, str) or not evidence.made:
        return evidence
    known = {made.kind for made in evidence.made}
    units = [unit for unit in store.step("controls").failures if "/" not in unit]  # not a prompt of one
    failed = dict.fromkeys(unit.rpartition("-")[0] for unit in units)
    return replace(evidence, made=(*evidence.made, *(Made(kind, 0) for kind in failed if kind not in known)))


def _score(store: ResultStore) -> tuple[str, ...]:
    """Return what the paper's own score shows, in each way that it was had."""
    if not store.has_table("replication"):
        return ()
    frame: Any = store.load_table("replication")
    rows = [row for row in frame.itertuples() if row.answer is not None]
    lines = [
        f"{row.way}: {row.base:.3g} in the base, {row.tuned:.3g} in the tuned model, {row.difference:+.3g} "
        f"[{row.low:.3g}, {row.high:.3g}], {stats.format_p(row.p)}, {row.answer} "
        f"(n = {row.n}, {row.n_left_out} too short)"
        for row in rows
    ]
    depends = lines and bool(frame["depends_on_length"].any())
    return (*lines, *(["the ways differ: it depends on the responses' length"] if depends else []))


def _instruction(store: ResultStore, validity: pd.DataFrame | None) -> Evidence | str:
    other = "instruction_use_deletion"
    deletion = store.load_result(other, InstructionUse) if store.has(other) else None
    return instruction_evidence(store.load_result("instruction_use", InstructionUse), deletion, validity)


def _heads(store: ResultStore, validity: pd.DataFrame | None) -> Evidence | str:
    return heads_evidence(store.load_result("verb_shift", VerbShift), validity)


def _rotation(store: ResultStore, validity: pd.DataFrame | None) -> Evidence | str:
    return rotation_evidence(store.load_result("value_rotation", ValueRotation), validity)


EVIDENCE: dict[Name, Answer] = {"instruction": _instruction, "heads": _heads, "rotation": _rotation}
