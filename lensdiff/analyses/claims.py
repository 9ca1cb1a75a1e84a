"""The three claims of the paper, answered for one pair of models: a sentence each, with numbers and control.

    instruction   tuning makes the instruction drive the response: tuned - base instruction score, paired over prompts
    heads         heads encode more word pairs of instruction verbs: verbs against control verbs of equal base counts
    rotation      feed-forward layers turn their concepts: whole-model angle ranked among control models

Positive supports the claim. Each has one p-value, fixed beforehand; all that can be tested form one family with
false-discovery control. Beside each stands the same number of controls: meaningless changes of the same size. What is
significant but lies within their band is not called shown: a random change would have done it too.

Ignored: the chat template (prompts are raw), linguistic levels (the paper's third claim says that they stay as they
are; to see that takes an annotation of concepts).

Reference: Wu et al., NAACL 2024, sections 4 to 6; doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from lensdiff.analyses import stats
from lensdiff.results import Provenance, Result

Name = Literal["instruction", "heads", "rotation"]
Verdict = Literal["shown", "opposite", "not shown", "within controls", "not robust", "no control", "not testable"]
NAMES: tuple[Name, ...] = ("instruction", "heads", "rotation")
PAPER: dict[Name, str] = {
    "instruction": "Tuning makes the model recognise the instruction and condition its response on it.",
    "heads": "Self-attention heads encode more word relations with instruction verbs.",
    "rotation": "Feed-forward layers rotate pre-trained knowledge toward user-oriented tasks.",
}
FAMILY = "the paper's claims"
SIGNIFICANT = 0.05
LEVEL = 0.95  # of the controls' band


@dataclass(frozen=True)
class ControlNumbers:
    """The same effect of control models.

    Attributes:
        kind: of the controls; n: how many.
        mean: their mean effect; low, high: where one more control falls with 95 %, None with fewer than three.
    """

    kind: str
    n: int
    mean: float
    low: float | None
    high: float | None

    def holds(self, effect: float) -> bool:
        """Return whether an effect lies within the band; false where there is none."""
        return self.low is not None and self.high is not None and self.low <= effect <= self.high

    def __str__(self) -> str:
        """Return for example `+0.01 [-0.03, 0.05]`."""
        shown = stats.Test("", self.mean, self.low, self.high, LEVEL, None, (self.n,), None)
        return shown.numbers()


@dataclass(frozen=True)
class Evidence:
    """What a claim rests on.

    Attributes:
        test: of the effect; positive supports the claim.
        control: the effect of control models, or None without any.
        effect: what stands beside the control's numbers, where it is not the test's estimate.
        check: the same question with a known confound taken out, and check_words: how. Where it disagrees, in sign or
            significance, the claim is not called shown.
        against_controls: the test compares with the controls already, so that their band asks nothing more.
        words: (what happened if the effect is positive, if it is negative, what has not been shown).
        unit: of the effect, as it follows a number.
        facts: what else a reader wants to know, a phrase each.
        also: the same question asked in other ways.
    """

    test: stats.Test
    words: tuple[str, str, str]
    control: ControlNumbers | None = None
    unit: str = ""
    effect: float | None = None
    check: stats.Test | None = None
    check_words: str = ""
    against_controls: bool = False
    facts: tuple[str, ...] = ()
    also: tuple[stats.Test, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One claim and its answer.

    Attributes:
        paper: what the paper says.
        verdict: the answer in a word; statement: in a sentence.
        test: effect, interval, p and adjusted p; None where it is not testable.
        control: the same number of controls.
        unit, effect, against_controls, facts, also: as in `Evidence`.
    """

    name: str
    paper: str
    verdict: Verdict
    statement: str
    test: stats.Test | None = None
    control: ControlNumbers | None = None
    unit: str = ""
    effect: float | None = None
    against_controls: bool = False
    facts: tuple[str, ...] = ()
    also: tuple[stats.Test, ...] = ()


@dataclass(frozen=True, eq=False)
class Claims(Result):
    """The answers, in the order of the paper."""

    claims: tuple[Claim, ...]

    def to_df(self) -> pd.DataFrame:
        """Return a row per claim.

        Columns: claim, verdict, statement, estimate, low, high, p, p_adjusted, test, n, control_mean, control_low,
        control_high, n_controls.
        """
        return pd.DataFrame([_row(claim) for claim in self.claims])

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the first k claims, in the order of the paper."""
        return self.to_df().head(k)


def _row(claim: Claim) -> dict[str, object]:
    test, control = claim.test, claim.control
    return {
        "claim": claim.name,
        "verdict": claim.verdict,
        "statement": claim.statement,
        **{name: getattr(test, name, None) for name in ("estimate", "low", "high", "p", "p_adjusted")},
        "test": test.name if test else "",
        "n": " + ".join(map(str, test.n)) if test else "",
        **{f"control_{name}": getattr(control, name, None) for name in ("mean", "low", "high")},
        "n_controls": control.n if control else 0,
    }


def claims(provenance: Provenance, evidence: Mapping[Name, Evidence | str]) -> Claims:
    """Answer the three claims.

    Args:
        provenance: of the pair.
        evidence: for each claim what it rests on, or a text: why it cannot be tested. What is missing was not run.
    """
    found: dict[Name, Evidence | str] = {name: evidence.get(name, "its analysis was not run") for name in NAMES}
    testable = {name: item for name, item in found.items() if isinstance(item, Evidence)}
    tests = stats.adjust([item.test for item in testable.values()], family=FAMILY)
    answers = dict(zip(testable, tests, strict=True))
    out = []
    for name, item in found.items():
        if isinstance(item, Evidence):
            out.append(answer(name, replace(item, test=answers[name])))
        else:
            out.append(Claim(name, PAPER[name], "not testable", f"Not testable on this pair: {item}."))
    return Claims(provenance, tuple(out))


def answer(name: Name, evidence: Evidence) -> Claim:
    """Return the claim with the words that its numbers allow: by sign, significance and the controls' band."""
    verdict = _verdict(evidence)
    rose, fell, nothing = evidence.words
    test, control, unit = evidence.test, evidence.control, evidence.unit
    beginning = nothing if verdict == "not shown" and not _below(test) else rose if test.estimate > 0 else fell
    numbers = f"{test.numbers()}{unit}, {_p(test)}"
    if control is None:
        beside = "no control was run, so what a meaningless change of the same size gives is unknown"
    elif control.low is None:
        beside = (
            f"meaningless changes of the same size give {control}{unit} on average, too few ({control.n}) for a band"
        )
    elif verdict == "within controls":
        beside = f"but a meaningless change of the same size does as much ({control}{unit})"
    else:
        beside = f"a meaningless change of the same size gives {control}{unit}"
    checked = ""
    if evidence.check is not None:
        checked = f"; {evidence.check_words} {evidence.check.numbers()}{unit}, {_p(evidence.check)}"
    statement = f"{beginning}: {numbers}; {beside}{checked}."
    return Claim(
        name,
        PAPER[name],
        verdict,
        statement,
        test,
        control,
        unit,
        evidence.effect,
        evidence.against_controls,
        evidence.facts,
        evidence.also,
    )


def _p(test: stats.Test) -> str:
    sided = " (one-sided)" if test.alternative == "greater" else ""
    if test.p_adjusted is not None:
        return f"adjusted {stats.format_p(test.p_adjusted)}{sided}"
    return "no p" if test.p is None else f"{stats.format_p(test.p)}{sided}"


def _below(test: stats.Test) -> bool:
    """Return whether a one-sided test missed an effect of the other sign: its two-sided interval lies below zero."""
    return test.alternative == "greater" and test.high is not None and test.high < 0


def _verdict(evidence: Evidence) -> Verdict:
    test, control = evidence.test, evidence.control
    if not _significant(test):
        return "not shown"
    if (check := evidence.check) is not None and (not _significant(check) or check.estimate * test.estimate < 0):
        return "not robust"
    if not evidence.against_controls:
        if control is None or control.low is None:
            return "no control"
        if control.holds(test.estimate if evidence.effect is None else evidence.effect):
            return "within controls"
    return "shown" if test.estimate > 0 else "opposite"


def _significant(test: stats.Test) -> bool:
    p = test.p if test.p_adjusted is None else test.p_adjusted
    return p is not None and p <= SIGNIFICANT and test.estimate != 0
