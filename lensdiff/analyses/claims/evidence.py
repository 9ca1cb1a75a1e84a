"""What each of the paper's claims rests on for one pair; `claims` puts it into words.

    instruction   instruction use by swap, tuned - base, mean over prompts and forced texts, nats per token; other ways:
                  each text alone, and the instruction deleted
    heads         T of the instruction verbs' mean sign over all heads, beyond verbs like them; its p is also that of
                  permuted labels; another way: the mean change of log(1 + count)
    rotation      share of the change of the values that one orthogonal map explains, mean over layers

Each stands beside the same number of every valid control, kind by kind. A control is invalid where it predicts the
base's own samples worse than the tuned model and than a uniform guess do: it is left out, and counted.

No statistic is computed here but by `stats`. Reference: the measures' own modules.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from lensdiff import stats
from lensdiff.analyses.claims.measure import Evidence
from lensdiff.analyses.claims.result import Way
from lensdiff.analyses.claims.words import Made, Words
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.instruction_use.result import InstructionUse
from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import Result
from lensdiff.results.numbers import n_of

PERMUTED = "permuted labels of verbs with about the same count and frequency"
INSTRUCTION = Words(
    "instruction use, tuned less base,",
    "The response depends more on its instruction than after meaningless changes of the same size",
    "The response depends less on its instruction than after meaningless changes of the same size",
    "The response depends more on its instruction, but meaningless changes raise that further",
    "The response depends less on its instruction, but meaningless changes lower that further",
    " nats per token",
)
HEADS = Words(
    "rise of instruction verbs beyond verbs like them",
    "Heads took up pairs with instruction verbs beyond verbs like them, and beyond meaningless changes",
    "Heads gave up pairs with instruction verbs beyond verbs like them, and beyond meaningless changes",
    "Heads took up pairs with instruction verbs beyond verbs like them, but meaningless changes do so more",
    "Heads gave up pairs with instruction verbs beyond verbs like them, but meaningless changes do so more",
    " (mean sign over heads)",
)
ROTATION = Words(
    "share of the values' change that is a rotation",
    "The change of the feed-forward layers is more of a rotation than meaningless changes are",
    "Less of a rotation than meaningless changes are, which says nothing of what the change is",
)

Controls = dict[str, list[float]]


def instruction_evidence(
    swap: InstructionUse, deletion: InstructionUse | None = None, validity: pd.DataFrame | None = None
) -> Evidence | str:
    """Return what the first claim rests on.

    Args:
        swap, deletion: instruction use of the pair and of its controls by either means.
        validity: a row per control that was run on text: control (its name), kind, valid.
    """
    n = len(swap.prompts())
    if n < stats.FEWEST_PAIRS:
        return f"{n} prompt(s) have responses that can be read in both models, at least {stats.FEWEST_PAIRS} are needed"
    effect, beside = swap.effects()
    test = swap.difference()
    controls, made = valid_controls(swap, beside, validity)
    ways = [_way(f"on the {text} text", swap, text, "the text", validity) for text in swap.texts if len(swap.texts) > 1]
    if deletion is not None and len(deletion.prompts()) >= stats.FEWEST_PAIRS:
        ways.append(_way("with the instruction deleted", deletion, None, "how the instruction is taken away", validity))
    interval = test.interval
    base, tuned = swap.means()
    facts = (
        f"{n_of(n, 'prompt')}; texts: {', '.join(swap.texts)}, each forced in both models",
        f"mean use {base:.3g} nats per token in the base, {tuned:.3g} in the tuned model",
        f"over prompts, taken as independent (a description, not a verdict): {test}",
        f"left out: {n_of(swap.n_left_out, 'empty or one-token response')}, {n_of(len(swap.failures), 'prompt')} that "
        f"failed, {swap.n_nothing_left} of which nothing was left",
    )
    return Evidence(
        effect,
        INSTRUCTION,
        controls,
        made,
        interval=interval,
        ways=tuple(w for w in ways if w is not None),
        facts=facts,
    )


def _way(name: str, use: InstructionUse, text: str | None, of: str, validity: pd.DataFrame | None) -> Way | None:
    if not len(use.prompts(text)):
        return None
    effect, beside = use.effects() if text is None else use.effects(text)
    controls, _ = valid_controls(use, beside, validity)
    return Way(name, effect, of, stats.against_controls(effect, controls).envelope)


def heads_evidence(shift: VerbShift, validity: pd.DataFrame | None = None) -> Evidence | str:
    """Return what the second claim rests on: instruction verbs against verbs like them, over all heads.

    Args:
        validity: as in `instruction_evidence`.
    """
    whole, (effect, beside) = shift.whole, shift.effects()
    if effect is None or whole.label_test is None:
        return (whole.label_note or "too few verbs stand in the heads' word pairs").removeprefix("not testable: ")
    controls, made = valid_controls(shift, beside, validity)
    log, log_beside = shift.effects("log")
    ways = []
    if log is not None:
        log_controls, _ = valid_controls(shift, log_beside, validity)
        log_envelope = stats.against_controls(log, log_controls).envelope
        ways.append(Way("mean change of log(1 + count)", log, "how a verb's rise is measured", log_envelope, ""))
    also = {
        "labels permuted, mean change of log(1 + count)": whole.log_label_test,
        "the paper's: shares of instruction verbs and of general verbs": whole.paper_test,
        "shares of matched verbs, paired by verb": whole.test,
        "mean signs of matched verbs, by head": whole.head_test,
    }
    facts = (
        f"labels of verbs permuted: {replace(whole.label_test, p_adjusted=None)}",
        f"{n_of(shift.n_instruction, 'instruction verb')}, "
        f"{n_of(len(shift.verbs) - shift.n_instruction, 'control verb')}",
    )
    return Evidence(
        effect,
        HEADS,
        controls,
        made,
        beside={PERMUTED: whole.label_test.p if whole.label_test.p is not None else 1.0},
        ways=tuple(ways),
        facts=facts,
        also=tuple((name, test) for name, test in also.items() if test is not None),
    )


def rotation_evidence(found: ValueRotation, validity: pd.DataFrame | None = None) -> Evidence | str:
    """Return what the third claim rests on: the share of the values' change that is a rotation.

    Args:
        validity: as in `instruction_evidence`.
    """
    if not bool((found.change > 0).any()):
        return "the values of the feed-forward layers did not change"
    beside = found.control_shares.mean(dim=1).tolist()
    controls, made = valid_controls(found, beside, validity)
    facts = [
        f"{n_of(len(found.layers), 'layer')}; the values changed by {float(found.change.mean()):.2%} of their norm, "
        "mean",
        f"share of each layer from {float(found.shares.min()):.3f} to {float(found.shares.max()):.3f}",
    ]
    if found.basis_changed:
        facts.append("a change of basis of the whole stream was taken away first")
    return Evidence(found.share, ROTATION, controls, made, signed=False, facts=tuple(facts))


def valid_controls(
    found: Result, effects: Sequence[float], validity: pd.DataFrame | None
) -> tuple[Controls, tuple[Made, ...]]:
    """Return the effects of a result's controls that are no ruined models, and how many there are of each kind.

    Whether a kind ruins the model is told by all of its controls that were run on text, also where others are compared.
    """
    known = {} if validity is None else dict(zip(validity["control"], validity["valid"].astype(bool), strict=True))
    kept = [
        (effect, control.kind)
        for control, effect in zip(found.provenance.controls, effects, strict=True)
        if known.get(control.name, True)
    ]
    made = []
    for kind, n in found.provenance.control_counts.items():
        checked = [] if validity is None else validity.loc[validity["kind"] == kind, "valid"].astype(bool).tolist()
        made.append(Made(kind, n, len(checked), checked.count(False)))
    return stats.by_kind([effect for effect, _ in kept], [kind for _, kind in kept]), tuple(made)
