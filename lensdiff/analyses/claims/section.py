"""The section of the report."""

from dataclasses import replace

from lensdiff.analyses.claims.measure import Claims
from lensdiff.analyses.claims.view import claims_widget
from lensdiff.analyses.claims.view_evidence import evidence_of
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.steps.found import Found
from lensdiff.views.section import Section, Table
from lensdiff.views.widget import Widget

CLAIMS_CAPTION = "A row per claim: its effect, p, p after Holm's correction, and the limits of all kinds of controls."
KINDS_CAPTION = (
    "A row per claim and kind of control: how many, how many are ruined models, their median, band and rank p."
)
UNFINISHED = "The run has not ended: these answers are of what was done before."
NOTE = (
    "p-values are adjusted over the claims that could be tested (Holm). A band needs 19 controls of every kind, a "
    "verdict 59. The paper: Wu et al., NAACL 2024, doi 10.18653/v1/2024.naacl-long.130."
)


def claims_section(found: Found) -> list[Widget | Table | str]:
    """Return the answers and what they rest on."""
    answers = found.maybe("claims", Claims)
    if answers is None:
        return ["The answers are written when the run has ended."]
    evidence = evidence_of(
        found.maybe("instruction_use", InstructionUse),
        found.maybe("verb_shift", VerbShift),
        found.maybe("value_rotation", ValueRotation),
    )
    unfinished = [] if found.store.manifest.ended else [UNFINISHED]
    return [
        *unfinished,
        replace(claims_widget(answers, evidence), title=""),  # the section's own will do
        Table("claims", answers.to_df(), CLAIMS_CAPTION),
        Table("claim_controls", answers.controls(), KINDS_CAPTION),
        NOTE,
    ]


SECTION = Section("Three claims of the paper, for this pair", "", 0, claims_section)
