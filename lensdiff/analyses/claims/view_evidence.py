"""What carries each claim's number, drawn under it: prompts as pairs of dots, verbs as bars, layers on bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal, NamedTuple

from lensdiff import stats
from lensdiff.analyses.claims.words import Name
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results.numbers import n_of
from lensdiff.views.numbers import rounded

MOST_PROMPTS = 12
MOST_VERBS = 8


class EvidenceRow(NamedTuple):
    """One prompt, verb or layer: its name, its numbers, and the band of controls, None where there are too few.

    values: of base and tuned; heads in which a verb fell, and rose; a layer's share.
    """

    name: str
    values: Sequence[float]
    band: tuple[float, float] | None


@dataclass(frozen=True)
class EvidenceData:
    """What the script draws under a claim.

    Attributes:
        how: "pairs" of dots, "bars" to both sides, or a "share" each.
        title: what is drawn, and how to read it.
        rows: in order.
        note: what is not drawn; empty where all is.
    """

    how: Literal["pairs", "bars", "share"]
    title: str
    rows: list[EvidenceRow]
    note: str


def evidence_of(
    use: InstructionUse | None, verbs: VerbShift | None, rotation: ValueRotation | None
) -> Mapping[Name, EvidenceData]:
    """Return what is drawn under the claims whose results are there."""
    found: dict[Name, EvidenceData | None] = {
        "instruction": None if use is None else _prompts(use),
        "heads": None if verbs is None else _verbs(verbs),
        "rotation": None if rotation is None else _layers(rotation),
    }
    return {name: one for name, one in found.items() if one is not None and one.rows}


def _prompts(use: InstructionUse) -> EvidenceData:
    """Return both models' use of every prompt, those that rose most first, before where one more control would lie."""
    uses = use.uses()
    order = sorted(uses, key=lambda prompt: float(uses[prompt][0] - uses[prompt][1]))
    rows = []
    for prompt in order[:MOST_PROMPTS]:
        base, tuned, *controls = uses[prompt].tolist()
        beside = stats.against_controls(
            tuned, stats.by_kind(controls, use.provenance.control_kinds), level=use.level
        ).envelope
        rows.append(EvidenceRow(prompt, [rounded(base), rounded(tuned)], beside.band if beside else None))
    left = len(order) - len(rows)
    return EvidenceData(
        "pairs",
        "Instruction use of each prompt, nats per token: base, tuned, and where one more control would lie",
        rows,
        f"{n_of(left, 'more prompt')} in the section below" if left else "",
    )


def _verbs(shift: VerbShift) -> EvidenceData:
    frame = shift.top(shift.n_instruction)
    moved: Any = frame[(frame.heads_up + frame.heads_down) > 0]
    some = moved.head(MOST_VERBS)
    rows = [
        EvidenceRow(verb, [down, up], None)
        for verb, down, up in zip(some.verb.tolist(), some.heads_down.tolist(), some.heads_up.tolist(), strict=True)
    ]
    left = len(moved) - len(rows)
    return EvidenceData(
        "bars",
        "Heads in which each instruction verb's word pairs fell (left) and rose (right)",
        rows,
        f"{n_of(left, 'more verb')} in the section below" if left else "",
    )


def _layers(found: ValueRotation) -> EvidenceData:
    """Return each layer's share, on the band of all kinds of controls together."""
    shares = found.shares.numpy()
    controls = stats.by_kind(list(found.control_shares.numpy()), found.control_kinds)
    low, high = stats.against_controls(shares, controls, level=found.level, limits=(0.0, 1.0)).band
    rows = []
    for layer, share, a, b in zip(found.layers, shares.tolist(), low.tolist(), high.tolist(), strict=True):
        rows.append(EvidenceRow(f"layer {layer}", [rounded(share)], None if isnan(a) else (rounded(a), rounded(b))))
    return EvidenceData(
        "share", "Share of each layer's change that is a rotation, and where one more control would lie", rows, ""
    )
