"""The three claims as cards: the answer in a word and a sentence, and the effect drawn beside each kind of control."""

from typing import Any

from jinja2 import Template

from lensdiff import stats
from lensdiff.analyses.claims.result import Claim, Claims, Verdict, unit_of
from lensdiff.analyses.claims.words import MEANINGLESS
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


@register_view
def show_claims(result: Claims) -> Widget:
    """Return the claims as cards."""
    cards = [_card(claim) for claim in result.claims]
    fallback: Template = templates.from_string(
        "{% for c in cards %}<p>{{ c.answer }}: {{ c.statement }}</p>{% endfor %}"
    )
    return Widget("claims", {"claims": cards}, "The paper's claims", fallback=fallback.render(cards=cards))


def _card(claim: Claim) -> dict[str, Any]:
    sign, answer = VERDICTS[claim.verdict]
    return {
        "title": TITLES[claim.name],
        "paper": claim.paper,
        "verdict": claim.verdict.replace(",", "").replace(" ", "-"),
        "sign": sign,
        "answer": answer,
        "statement": _without(claim.statement, f"{answer}: ", *SAID),
        "facts": [*claim.facts, *_ways(claim), *_made(claim)],
        "also": [f"{name}: {test}" for name, test in claim.also],
        "replication": list(claim.replication),
        "picture": _picture(claim),
    }


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
        f"{kind.made} {kind.kind} controls made; of {kind.checked} run on text {kind.invalid} {ruined}"
        for kind in claim.made
    ]


def _picture(claim: Claim) -> dict[str, Any] | None:
    """Return what is drawn on one axis: the effect with its interval over prompts, each kind's controls and band."""
    if claim.effect is None:
        return None
    return {
        "effect": claim.effect,
        "interval": claim.interval,
        "unit": claim.unit,
        "kinds": [_kind(claim, kind) for kind in claim.beside.kinds] if claim.beside else [],
    }


def _kind(claim: Claim, kind: stats.ControlKind) -> dict[str, Any]:
    return {
        "name": kind.kind,
        "values": [float(f"{value:.4g}") for value in claim.controls[kind.kind]],
        "median": kind.median,
        "band": None if kind.low is None or kind.high is None else [kind.low, kind.high],
    }
