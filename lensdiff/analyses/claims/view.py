"""The three claims as cards: the answer in a word and a sentence, and the effect drawn beside each kind of control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Template

from lensdiff import stats
from lensdiff.analyses.claims.result import Claim, Claims, Verdict, unit_of
from lensdiff.analyses.claims.view_evidence import EvidenceData
from lensdiff.analyses.claims.words import MEANINGLESS, Name
from lensdiff.results.numbers import n_of
from lensdiff.views.numbers import rounded_all
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget, templates

VERDICTS: dict[Verdict, tuple[str, str]] = {  # a sign and words: no colour carries the answer
    "shown": ("✓", "Shown for this pair"),
    "opposite": ("⇄", "The opposite is shown"),
    "beyond, too few": ("△", "Beyond all controls, too few for a corrected p"),
    "within controls": ("≈", "No more than meaningless changes"),
    "not shown": ("○", "Not shown"),
    "depends": ("∼", "Depends on how it is asked"),
    "too few controls": ("?", "Too few controls to tell"),
    "not testable": ("–", "Not testable on this pair"),
}
SAID = ("Not shown: ", "Not testable: ", f"No more than {MEANINGLESS}: ")  # how sentences begin that answers repeat
TITLES = {"instruction": "Instructions", "heads": "Attention heads", "rotation": "Feed-forward layers"}


@dataclass(frozen=True)
class KindData:
    """One kind of control on a claim's axis.

    Attributes:
        name: of the kind.
        values: of the controls, in the claim's unit.
        median: of the controls.
        band: in which one more control of this kind would lie; None where they are too few.
    """

    name: str
    values: list[float]
    median: float
    band: tuple[float, float] | None


@dataclass(frozen=True)
class PictureData:
    """What is drawn of a claim on one axis.

    Attributes:
        effect: tuned - base, or a share.
        interval: of the effect over prompts, None where it has none.
        unit: that follows the effect's number, with its space.
        kinds: of control, a row each.
    """

    effect: float
    interval: tuple[float, float] | None
    unit: str
    kinds: list[KindData]


@dataclass(frozen=True)
class CardData:
    """One claim.

    Attributes:
        title: its subject.
        paper: the claim in the paper's words.
        verdict: the class of the card in the page's style.
        sign: of the verdict.
        answer: the verdict in words.
        statement: what was found, without what the answer says already.
        cause: what an intervention shows, in a line; None where none was made.
        facts: how this was tested.
        also: other tests of the same question, without a verdict.
        replication: the paper's own score on this pair.
        picture: None where there is no effect.
        evidence: what carries the number; None where it is not at hand.
    """

    title: str
    paper: str
    verdict: str
    sign: str
    answer: str
    statement: str
    cause: str | None
    facts: list[str]
    also: list[str]
    replication: Sequence[str]
    picture: PictureData | None
    evidence: EvidenceData | None


@dataclass(frozen=True)
class ClaimsData:
    """What the script of the claims is given: a card each."""

    claims: list[CardData]


@register_view
def show_claims(result: Claims) -> Widget:
    """Return the claims as cards."""
    return claims_widget(result, {})


def claims_widget(result: Claims, evidence: Mapping[Name, EvidenceData]) -> Widget:
    """Return the claims as cards, with what carries their numbers as far as it is at hand."""
    cards = [_card(claim, evidence.get(claim.name)) for claim in result.claims]
    fallback: Template = templates.from_string(
        "{% for c in cards %}<p>{{ c.answer }}: {{ c.statement }}"
        "{% if c.cause %} Cause: {{ c.cause }}.{% endif %}</p>{% endfor %}"
    )
    return Widget("claims", ClaimsData(cards), "The paper's claims", fallback=fallback.render(cards=cards))


def _card(claim: Claim, evidence: EvidenceData | None) -> CardData:
    sign, answer = VERDICTS[claim.verdict]
    return CardData(
        title=TITLES[claim.name],
        paper=claim.paper,
        verdict=claim.verdict.replace(",", "").replace(" ", "-"),
        sign=sign,
        answer=answer,
        statement=_without(claim.statement, f"{answer}: ", *SAID),
        cause=claim.cause.statement if claim.cause else None,
        facts=[*claim.facts, *_ways(claim), *_made(claim), *(claim.cause.facts if claim.cause else ())],
        also=[f"{name}: {test}" for name, test in claim.also],
        replication=claim.replication,
        picture=_picture(claim),
        evidence=evidence,
    )


def _without(statement: str, *beginnings: str) -> str:
    rest = statement
    for beginning in beginnings:
        rest = rest.removeprefix(beginning)
    return rest[:1].upper() + rest[1:]


def _ways(claim: Claim) -> list[str]:
    beside = [f"; {way.beside}" if way.beside else "" for way in claim.ways]
    ways = zip(claim.ways, beside, strict=True)
    return [f"{way.name}: {way.effect:+.3g}{unit_of(way, claim.unit)}{text}" for way, text in ways]


def _made(claim: Claim) -> list[str]:
    ruined = "predict the base's own text worse than the tuned model and than a uniform guess, and are left out"
    return [
        f"{n_of(kind.made, f'{kind.kind} control')} made; of {kind.checked} run on text {kind.invalid} {ruined}"
        for kind in claim.made
    ]


def _picture(claim: Claim) -> PictureData | None:
    if claim.effect is None:
        return None
    kinds = [_kind(claim, kind) for kind in claim.beside.kinds] if claim.beside else []
    return PictureData(claim.effect, claim.interval, claim.unit, kinds)


def _kind(claim: Claim, kind: stats.ControlKind) -> KindData:
    band = None if kind.low is None or kind.high is None else (kind.low, kind.high)
    return KindData(kind.kind, rounded_all(claim.controls[kind.kind]), kind.median, band)
