"""The three claims of the paper, answered for one pair of models: a verdict, a sentence, a number beside its controls.

    instruction   the response is conditioned on the instruction: instruction use, tuned - base (`instruction_use`)
    heads         heads relate more words to instruction verbs: verbs over all heads, against verbs like them
                  (`verb_shift`)
    rotation      feed-forward layers rotate: share of the change of their values that is a rotation (`value_rotation`)

Each claim has one effect, fixed beforehand, and beside it the same effect of every kind of control made (meaningless
changes of the same size, `lensdiff.models`). Positive, or for a share above the controls', supports the claim.

    p           the largest of the kinds' two-sided rank p (`stats.Envelope`) and, of heads, the permuted labels' p
    adjusted    Holm over the claims that have a p
    shown       adjusted p of at most .05, beyond every kind of control, in the claim's direction; beside random
                directions alone (`REFERENCES`) nothing is
    opposite    the same in the other direction; of rotation there is none, since a share of 0 needs no meaning

Nothing else is called shown. An effect within the controls' band, between two kinds, or on the wrong side of them (a
rise that is smaller than meaningless changes give) is not. The paper's own statistics stand beside it as replication,
without a verdict: `replication` and the tables of their analyses; so does what an intervention on the models shows
(`cause`).

Ignored: linguistic levels (the paper's third claim says that they stay as they
are; to see that takes an annotation of concepts).

Reference: Wu et al., NAACL 2024, sections 4 to 6; doi 10.18653/v1/2024.naacl-long.130. The statistics are lensdiff's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lensdiff import stats
from lensdiff.analyses.claims.cause import Cause
from lensdiff.analyses.claims.result import NAMES, PAPER, Claim, Claims, Verdict, Way, unit_of
from lensdiff.analyses.claims.words import SIGNIFICANT, Case, Made, Name, Words, sentence
from lensdiff.results import Provenance

REFERENCES = ("spectrum", "norm", "self")  # training on nothing lies beyond them: see docs/understand


@dataclass(frozen=True)
class Evidence:
    """What a claim rests on.

    Attributes:
        effect: tuned - base, or of the pair, in `unit`.
        words: what is said of it.
        controls: the same effect of the valid controls, by kind; empty where none were made.
        made: per kind, how many controls were made, checked and found to be ruined models.
        signed: zero means no change, and the sign says which way. A share has no sign, and a small one says nothing:
            changes that mean nothing (a rescaling, neurons in another order) have a share of 0, below every control's.
            So it is tested above the controls alone.
        beside: p-values that a verdict needs as well, by what they are from (permuted labels).
        interval: of the effect over prompts, a description.
        ways: other ways to ask; facts: what else a reader wants to know, a phrase each.
        also: other tests of the same question, without a verdict.
        needed: controls of every kind that a verdict needs.
    """

    effect: float
    words: Words
    controls: Mapping[str, list[float]] = field(default_factory=dict)
    made: tuple[Made, ...] = ()
    signed: bool = True
    beside: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    ways: tuple[Way, ...] = ()
    facts: tuple[str, ...] = ()
    also: tuple[tuple[str, stats.Test], ...] = ()
    needed: int = stats.FEWEST_FOR_VERDICT

    @property
    def envelope(self) -> stats.Envelope | None:
        """The effect beside every kind of control; None without any."""
        return stats.against_controls(self.effect, self.controls, needed=self.needed).envelope

    @property
    def ruined(self) -> Made | None:
        """The first kind of which most controls are ruined models."""
        return next((kind for kind in self.made if kind.ruined), None)

    @property
    def lacking(self) -> Made | None:
        """The first kind that was asked for and of which no control could be made or read."""
        return next((kind for kind in self.made if not kind.made), None)

    @property
    def references(self) -> bool:
        """Whether all controls are of kinds that no training is like: beside those alone nothing is shown."""
        return bool(self.controls) and all(kind in REFERENCES for kind in self.controls)

    @property
    def p(self) -> float | None:
        """The p that is corrected; None without enough controls of every kind, or where they are ruined."""
        found = self.envelope
        if found is None or found.p is None or found.n < found.needed:
            return None
        if self.ruined or self.lacking or self.references:
            return None
        if not self.signed and found.direction == "below":
            return 1.0
        return max(found.p, *self.beside.values()) if self.beside else found.p


def claims(
    provenance: Provenance,
    evidence: Mapping[Name, Evidence | str],
    replication: Mapping[Name, tuple[str, ...]] | None = None,
    causes: Mapping[Name, Cause] | None = None,
) -> Claims:
    """Answer the three claims.

    Args:
        provenance: of the pair.
        evidence: for each claim what it rests on, or a text: why it cannot be tested. What is missing was not run.
        replication: for each claim what the paper's own statistic shows.
        causes: for each claim what an intervention shows.
    """
    found: dict[Name, Evidence | str] = {name: evidence.get(name, "its analysis was not run") for name in NAMES}
    values = {name: p for name, item in found.items() if isinstance(item, Evidence) and (p := item.p) is not None}
    adjusted = dict(zip(values, stats.holm(np.array(list(values.values()))).tolist(), strict=True))
    out = []
    for name, item in found.items():
        if isinstance(item, Evidence):
            out.append(answer(name, item, adjusted.get(name), n_tested=len(values)))
        else:
            out.append(Claim(name, PAPER[name], "not testable", f"Not testable on this pair: {item}."))
    beside, causes = replication or {}, causes or {}
    whole = (replace(x, replication=beside.get(x.name, ()), cause=causes.get(x.name)) for x in out)
    return Claims(provenance, tuple(whole))


def answer(name: Name, evidence: Evidence, p_adjusted: float | None = None, *, n_tested: int = 1) -> Claim:
    """Return the claim with the verdict that its numbers allow, and with the words that follow from that verdict."""
    case, verdict = _case(evidence, p_adjusted)
    disagreeing = tuple(way for way in evidence.ways if case == "depends" and not way.agrees(_direction(evidence)))
    statement = sentence(
        case,
        evidence.words,
        effect=evidence.effect,
        beside=evidence.envelope,
        made=evidence.made,
        p=p_adjusted,
        n_tested=n_tested,
        permuted=dict(evidence.beside),
        depends=[(way.of, f"{way.name} {way.effect:+.3g}{unit_of(way, evidence.words.unit)}") for way in disagreeing],
    )
    return Claim(
        name,
        PAPER[name],
        verdict,
        statement,
        evidence.effect,
        evidence.words.unit,
        evidence.p,
        p_adjusted,
        evidence.envelope,
        dict(evidence.controls),
        evidence.made,
        evidence.interval,
        evidence.ways,
        evidence.facts,
        evidence.also,
    )


def _direction(evidence: Evidence) -> stats.Direction | None:
    return evidence.envelope.direction if evidence.envelope else None


def _case(evidence: Evidence, p_adjusted: float | None) -> tuple[Case, Verdict]:
    """Return what the numbers say; the verdict is what it comes to."""
    beside = evidence.envelope
    if evidence.ruined:
        return "ruined", "not testable"
    if evidence.signed and evidence.effect == 0:
        return "nothing", "not shown"
    if evidence.lacking:
        return "lacking", "too few controls"
    if beside is None:
        return "no controls", "too few controls"
    below = not evidence.signed and beside.direction == "below"
    found = beside.verdict(None if below else p_adjusted)  # where it lies is told, though it has no p there
    if found == "too few":
        return "too few", "too few controls"
    if found == "within":
        # beyond every band by the envelope's own p, and held back by Holm's correction or by permuted labels
        held_back = beside.n >= beside.needed and beside.p is not None and beside.p <= SIGNIFICANT
        return ("held back", "not shown") if held_back else ("within", "within controls")
    if any(p > SIGNIFICANT for p in evidence.beside.values()):
        return "held back", "not shown"
    if below:
        return "below", "not shown"
    if evidence.references:
        return "references", "not shown"
    if evidence.signed and (evidence.effect > 0) != (beside.direction == "above"):
        return "wrong side", "not shown"
    if not all(way.agrees(beside.direction) for way in evidence.ways):
        return "depends", "depends"
    if found == "beyond all, too few":
        return "beyond, too few", "beyond, too few"
    return ("shown", "shown") if beside.direction == "above" else ("opposite", "opposite")
