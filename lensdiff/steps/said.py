"""What the models' responses are like beside each other: lines of the report's first section, from responses alone.

Controls that answered prompts say how often a meaningless change does the same; where none did, "no control" is said.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lensdiff.models.said import Parting, Said, begins, parting, shared_beginning
from lensdiff.results.numbers import n_of
from lensdiff.steps.found import Found
from lensdiff.steps.headline import NO_CONTROL, Headline
from lensdiff.steps.responses import CONTROL_STEP, RESPONSES_STEP, SaidResponse
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.views.words import clipped, visible

LONGEST = 60  # characters of a beginning, or a token, in a line
NAMES = {"base": "the base", "tuned": "the tuned model"}


class Answers(NamedTuple):
    """Both models' responses to one prompt."""

    prompt_id: str
    prompt: str
    base: Said
    tuned: Said

    @property
    def parting(self) -> Parting | None:
        return parting(self.base, self.tuned)


def answers(found: Found) -> list[Answers]:
    """Return the prompts that both models answered, in order."""
    both = []
    for prompt in found.prompts(RESPONSES_STEP, *SIDES):
        base, tuned = (found.one(RESPONSES_STEP, SaidResponse, Unit(side, prompt)) for side in SIDES)
        both.append(Answers(prompt, tuned.prompt or base.prompt, _said(base), _said(tuned)))
    return both


def _said(response: SaidResponse) -> Said:
    return Said(response.text, response.tokens, response.end)


def said_headlines(found: Found, both: Sequence[Answers]) -> list[Headline]:
    """Return how the responses end, begin and part; nothing where no prompt was answered by both models."""
    if not both:
        return []
    controls = [result.text for result in found.each(CONTROL_STEP, SaidResponse)]
    return [*_empty(both, controls), *_parted(both), *_begun(both, controls), *_ended(both)]


def _empty(both: Sequence[Answers], controls: Sequence[str]) -> Iterator[Headline]:
    base, tuned = (sum(side.is_empty for side in sides) for sides in _sides(both))
    if base or tuned:
        of_controls = sum(not text.strip() for text in controls)
        text = f"{base} of {n_of(len(both), 'base response')} {_are(base)} empty, and {tuned} of the tuned model's"
        yield _line(text, (tuned - base) / len(both), _beside(of_controls, len(controls), "is empty", "are empty"))


def _parted(both: Sequence[Answers]) -> Iterator[Headline]:
    places = [found for found in (answer.parting for answer in both) if found is not None]
    if not places:
        yield _line(f"The responses to all {n_of(len(both), 'prompt')} are the same", 0.0)
        return
    first = sum(place.place == 0 for place in places)
    text = f"The responses differ in {len(places)} of {n_of(len(both), 'prompt')}, in {first} from the first token on"
    yield _line(text, len(places) / len(both))
    said = Counter(place.tuned for place in places if place.tuned is not None)
    if said:
        (token, n), *_ = said.most_common(1)
        base = Counter(place.base for place in places if place.base is not None)[token]
        if n > max(1, base):
            text = f"Where they part, the tuned model says {_quoted(token)} in {n} of {n_of(len(places), 'prompt')}"
            yield _line(f"{text}, the base in {base}", (n - base) / len(places))


def _begun(both: Sequence[Answers], controls: Sequence[str]) -> Iterator[Headline]:
    """Yield the words that at least half of a model's responses begin with, and how many of the other's do."""
    texts = dict(zip(SIDES, ([side.text for side in sides] for sides in _sides(both)), strict=True))
    told = set()
    for side, other in (SIDES[::-1], SIDES):
        shared = shared_beginning(texts[side])
        if shared and shared not in told:
            told.add(shared)
            own, others, of_controls = (
                sum(begins(text, shared) for text in some) for some in (texts[side], texts[other], controls)
            )
            text = f"{own} of {n_of(len(both), 'response')} of {NAMES[side]} {_s('begin', own)} with "
            text += f"{_quoted(' '.join(shared))}, and {others} of {NAMES[other]}"
            number = (own - others if side == SIDES[1] else others - own) / len(both)
            yield _line(text, number, _beside(of_controls, len(controls), "begins so", "begin so"))


def _ended(both: Sequence[Answers]) -> Iterator[Headline]:
    base, tuned = (sum(bool(side.end) for side in sides) for sides in _sides(both))
    known = all(side.end is not None for sides in _sides(both) for side in sides)
    if known and base != tuned:
        text = (
            f"The tuned model ends {tuned} of {n_of(len(both), 'response')} itself, the base {base}; others are cut off"
        )
        yield _line(text, (tuned - base) / len(both))


def _sides(both: Sequence[Answers]) -> tuple[list[Said], list[Said]]:
    return [answer.base for answer in both], [answer.tuned for answer in both]


def _line(text: str, number: float, control: str = NO_CONTROL) -> Headline:
    return Headline("responses", text, number, control=control)


def _beside(n: int, of: int, one: str, many: str) -> str:
    return f"{n} of {n_of(of, 'response')} of controls {one if n == 1 else many}" if of else NO_CONTROL


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _s(verb: str, n: int) -> str:
    return f"{verb}s" if n == 1 else verb


def _quoted(text: str) -> str:
    return f"“{clipped(visible(text.strip() or text), LONGEST)}”"
