"""The step that answers the claims from what the other analyses found."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from lensdiff import stats
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.replication import of_own
from lensdiff.analyses.claims import ClaimOptions
from lensdiff.analyses.claims.cause import Cause
from lensdiff.analyses.claims.evidence import heads_evidence, instruction_evidence, rotation_evidence
from lensdiff.analyses.claims.interventions import heads_cause, instruction_cause, rotation_cause
from lensdiff.analyses.claims.measure import Claims, Evidence, claims
from lensdiff.analyses.claims.words import Made, Name
from lensdiff.analyses.dose.result import Dose
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.knock_out.shift import KnockOutShift
from lensdiff.analyses.patch.set_result import SetPatch
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import Provenance
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.pair import PairFacts
from lensdiff.steps.plan import Plan, sides_and_prompts
from lensdiff.steps.step import Read, Step, no_cost, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY_STEP, of_all, validity_table

RESTS_ON: dict[Name, str] = {  # the result that a claim rests on
    "instruction": "instruction_use",
    "heads": "verb_shift",
    "rotation": "value_rotation",
}
DELETION = "instruction_use_deletion"
CAUSES = ("knock_out", "patch_set", "dose")  # results that say what an intervention shows


def reads(plan: Plan, unit: Unit, options: ClaimOptions) -> Iterable[Read]:
    """Return everything that a claim rests on; what was not asked for is not there."""
    own = [Read("attribution", unit, required=False) for unit in sides_and_prompts(plan)]
    causes = [name for name in CAUSES if name != "patch_set" or "heads" in plan.controls]  # it needs word pairs
    results = [Read(name, required=False) for name in (*RESTS_ON.values(), DELETION, *causes)]
    return [Read("pair"), *results, *own, *of_all(plan)]


def work(inputs: Inputs, unit: Unit, options: ClaimOptions) -> Claims:
    """Answer the claims, as far as the results go."""
    found = inputs.found
    validity = validity_table(found)
    answers: dict[Name, Evidence | str] = {}
    for name, step in RESTS_ON.items():
        if found.has(step):
            answers[name] = _with_lacking(EVIDENCE[name](found, validity), found)
        elif reason := found.reason(step, Unit()):
            answers[name] = reason.rstrip(".")
    facts = found.one("pair", PairFacts).provenance
    provenance = Provenance("claims", facts.model, options=dict(facts.options))
    return claims(provenance, answers, {"instruction": _score(found)}, _causes(found, validity))


def _causes(found: Found, validity: pd.DataFrame | None) -> dict[Name, Cause]:
    """Return what the interventions say, as far as they were made."""
    causes: dict[Name, Cause | None] = {}
    if (cut := found.maybe("knock_out", KnockOutShift)) is not None:
        causes["instruction"] = instruction_cause(cut, validity)
    if (heads := found.maybe("patch_set", SetPatch)) is not None:
        causes["heads"] = heads_cause(heads, validity)
    if (dosed := found.maybe("dose", Dose)) is not None:
        causes["rotation"] = rotation_cause(dosed)
    return {name: cause for name, cause in causes.items() if cause is not None}


def _with_lacking(evidence: Evidence | str, found: Found) -> Evidence | str:
    """Return the evidence with the kinds of controls of which every one failed, where some were to be made."""
    if isinstance(evidence, str) or not evidence.made:
        return evidence
    known = {made.kind for made in evidence.made}
    failed = dict.fromkeys(str(unit.model).rpartition("-")[0] for unit in found.failures(VALIDITY_STEP))
    return replace(evidence, made=(*evidence.made, *(Made(kind, 0) for kind in failed if kind not in known)))


def _score(found: Found) -> tuple[str, ...]:
    """Return what the paper's own score shows, in each way that it was had."""
    replicated = of_own(*(found.each("attribution", Attribution, side) for side in SIDES))
    if replicated is None:
        return ()
    tested = [(way, test) for way in replicated.ways if (test := way.test) is not None and test.p is not None]
    lines = [
        f"{way.way}: {way.base:.3g} in the base, {way.tuned:.3g} in the tuned model, {way.tuned - way.base:+.3g} "
        f"[{test.low:.3g}, {test.high:.3g}], {stats.format_p(test.p or 0.0)}, {way.answer} "
        f"(n = {way.n}, {way.n_left_out} too short)"
        for way, test in tested
    ]
    depends = bool(lines) and replicated.depends_on_length
    return (*lines, *(["the ways differ: it depends on the responses' length"] if depends else []))


def _instruction(found: Found, validity: pd.DataFrame | None) -> Evidence | str:
    swap, deletion = found.one("instruction_use", InstructionUse), found.maybe(DELETION, InstructionUse)
    return instruction_evidence(swap, deletion, validity)


def _heads(found: Found, validity: pd.DataFrame | None) -> Evidence | str:
    return heads_evidence(found.one("verb_shift", VerbShift), validity)


def _rotation(found: Found, validity: pd.DataFrame | None) -> Evidence | str:
    return rotation_evidence(found.one("value_rotation", ValueRotation), validity)


EVIDENCE: dict[Name, Callable[[Found, pd.DataFrame | None], Evidence | str]] = {
    "instruction": _instruction,
    "heads": _heads,
    "rotation": _rotation,
}


STEPS: tuple[Step[Any, Any], ...] = (
    Step(
        name="claims",
        title="claims",
        options=ClaimOptions,
        result=Claims,
        units=one_unit,
        work=work,
        cost=no_cost,
        reads=reads,
    ),
)
TABLES: tuple[TableDoc[Any], ...] = (
    TableDoc(
        "claims",
        "a claim of the paper",
        {
            "claim": "its name",
            "verdict": "the answer in a word",
            "statement": "in a sentence",
            "effect": "the number that is tested, tuned - base or of the pair",
            "unit": "of the effect",
            "p": "the largest of its rank p among each kind of control, and of heads the permuted labels'",
            "p_adjusted": "Holm over the claims that have a p",
            "control_low": "limits of all kinds of controls together; missing with fewer than 19 of a kind",
            "control_high": "as control_low",
            "n_controls": "valid controls of the smallest kind",
            "cause": "what an intervention on the models shows, in words; empty where none was made",
            "cause_effect": "its number, tuned - base or of the pair",
            "cause_control_low": "limits of all kinds of controls together; missing with fewer than 19 of a kind",
            "cause_control_high": "as cause_control_low",
        },
        of=("claims",),
        build=of_one("claims", Claims),
    ),
    TableDoc(
        "claim_controls",
        "a claim and a kind of control",
        {
            "claim": "its name",
            "kind": "of the controls",
            "n": "valid controls that the effect is compared with",
            "made": "how many were made",
            "checked": "how many of the kind were run on the base's own samples",
            "invalid": "how many of those predict them worse than the tuned model and than a uniform guess",
            "median": "their median effect",
            "low": "limits within which one more control of the kind lies",
            "high": "as low",
            "p": "the effect's two-sided rank among the controls of the kind",
        },
        of=("claims",),
        build=of_one("claims", Claims, Claims.controls),
    ),
)
