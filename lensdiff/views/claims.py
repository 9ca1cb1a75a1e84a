"""The three claims as cards: the answer in a word and in a sentence, and the effect drawn beside its controls."""

from typing import Any

from jinja2 import Template

from lensdiff.analyses.claims import Claim, Claims, Verdict
from lensdiff.views.show import register_view
from lensdiff.views.widget import Widget, templates

VERDICTS: dict[Verdict, tuple[str, str]] = {  # a sign and words: no colour carries the answer
    "shown": ("✓", "Shown for this pair"),
    "opposite": ("⇄", "The opposite is shown"),
    "not shown": ("○", "Not shown"),
    "within controls": ("≈", "No more than a meaningless change"),
    "not robust": ("∼", "Depends on the responses' length"),
    "no control": ("?", "Significant, but without a control"),
    "not testable": ("–", "Not testable on this pair"),
}
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
        "verdict": claim.verdict.replace(" ", "-"),
        "sign": sign,
        "answer": answer,
        "statement": _without(claim.statement, f"{answer}: "),
        "facts": list(claim.facts),
        "also": [str(test) for test in claim.also],
        "test": "" if claim.test is None else str(claim.test),
        "picture": _picture(claim),
    }


def _without(statement: str, beginning: str) -> str:
    rest = statement.removeprefix(beginning)
    return rest[:1].upper() + rest[1:]


def _picture(claim: Claim) -> dict[str, Any] | None:
    """Return what is drawn on one axis: the effect with its interval, and the controls' mean and band."""
    test, control = claim.test, claim.control
    if test is None:
        return None
    beside = claim.against_controls and control is not None
    return {
        "effect": claim.effect if beside else test.estimate,
        # an interval against the controls is the controls' band: it is drawn there
        "interval": None if beside or test.low is None else [test.low, test.high],
        "control": None if control is None else control.mean,
        "band": None if control is None or control.low is None else [control.low, control.high],
        "n": control.n if control else 0,
        "kind": control.kind if control else "",
        "unit": claim.unit,
    }
