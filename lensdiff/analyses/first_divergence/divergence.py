"""Where two greedy models part: the first position after the same tokens at which their choices differ.

Both are read on the same text, so their choices before it are the same tokens. A choice is the most probable of the
tokens that both vocabularies have, the end of the text among them: a token of one model alone has no logit in the
other. The tuned model's own greedy response is the text (drafted, then read by both in whole passes); where it has a
token that the base lacks, or ends with one, it goes on with what both choose of the shared ones.

Beside the first divergence, positions that say what is particular to it: later ones on the tuned model's text at which
the choices differ again, and earlier ones, of the prompt too; both drawn at random.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.aligned_text import check_positions
from lensdiff.models.asked import Advance, Asked
from lensdiff.models.choosing import choices_among
from lensdiff.models.decoding import greedy
from lensdiff.models.forced_text import force_base, force_tuned
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import n_of

NOTHING_SAID = Response("", ())


class Place(NamedTuple):
    """A position, and the two tokens that are scored there: the base's choice and the tuned model's, among shared."""

    position: int
    base: int
    tuned: int


@dataclass(frozen=True, eq=False)
class Divergence:
    """Where the models part after a prompt; see the module.

    Attributes:
        ids: of the text, by the model ("base", "tuned"), up to the last of the places.
        n_out: response tokens that both models choose before they part.
        first: the divergence.
        later, earlier: the positions beside it; earlier ones are scored on its two tokens.
    """

    prompt: Prompt
    ids: Mapping[str, Int[Tensor, " pos"]]
    n_out: int
    first: Place
    later: tuple[Place, ...]
    earlier: tuple[Place, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.first, *self.later, *self.earlier)


@dataclass
class _Course:
    """A prompt and what both models choose along the response.

    Attributes:
        prompt_ids: by the model; n_special: how many of them are special tokens in front.
        said: the response so far, as indices into the shared tokens.
        chosen: each model's choice at the position before each of its tokens, and behind the last.
        parts_at: the first of these at which they differ, once it is found.
    """

    prompt: Prompt
    prompt_ids: dict[str, tuple[int, ...]]
    n_special: int
    said: list[int] = field(default_factory=list)
    chosen: dict[str, list[int]] = field(default_factory=dict)
    parts_at: int | None = None

    def ids(self, side: str, shared: Int[Tensor, " shared"]) -> Int[Tensor, " pos"]:
        return torch.cat([torch.tensor(self.prompt_ids[side]), shared[torch.tensor(self.said, dtype=torch.int64)]])


def find_divergences(
    pair: ModelPair,
    asked: Asked,
    *,
    max_new_tokens: int,
    prepend_bos: bool | None,
    draws: int,
    seed: int,
    advance: Advance,
) -> tuple[list[Divergence], dict[str, str]]:
    """Return where the models part after each prompt, and by its id why they do not after others.

    A prompt that fails is kept among those that have failed; `advance` is called with how many prompts are done.
    """
    search = _Search(pair, asked, max_new_tokens)
    waiting = search.begun(prepend_bos)
    while waiting:
        search.read(waiting)
        n, waiting = len(waiting), [course for course in search.going(waiting) if search.goes_on(course)]
        advance(n - len(waiting))
    found = [course for course in search.going(search.courses) if course.parts_at is not None]
    return [search.placed(course, draws, seed) for course in found], search.agreed


class _Search:
    """The prompts of one call; each model is asked for as seldom as can be, so that a pair may keep one at a time."""

    def __init__(self, pair: ModelPair, asked: Asked, max_new_tokens: int):
        self.pair, self.asked, self.most = pair, asked, max_new_tokens
        self.shared: dict[str, Tensor] = dict(zip(SIDES, pair.shared_tokens, strict=True))
        self.index = {side: {i: n for n, i in enumerate(ids.tolist())} for side, ids in self.shared.items()}
        self.agreed: dict[str, str] = {}
        self.courses: list[_Course] = []
        self.ends: set[int] = set()  # the shared tokens that end a text of either model
        self.n_ctx = 0

    def begun(self, prepend_bos: bool | None) -> list[_Course]:
        """Return the prompts that both models read as the same tokens."""
        tuned, texts = view_of(self.pair.tuned), {}
        for prompt in self.asked.going():
            with self.asked.guard(prompt):
                texts[prompt.id] = force_tuned(self.pair, tuned, prompt, NOTHING_SAID, prepend_bos=prepend_bos)
        base = view_of(self.pair.base)
        for prompt in self.asked.going():
            with self.asked.guard(prompt):
                text = texts[prompt.id]
                read = force_base(self.pair, base, text, prepend_bos=prepend_bos)
                check_positions(text, read)
                ids = {"base": read.ids, "tuned": text.tuned.ids}
                self.courses.append(_Course(prompt, ids, text.tuned.n_special))
        return self.courses

    def going(self, courses: Sequence[_Course]) -> list[_Course]:
        return [course for course in courses if course.prompt.id not in self.asked.errors]

    def read(self, courses: Sequence[_Course]) -> None:
        """Let the tuned model go on with each text, and read what both choose along it."""
        tuned = view_of(self.pair.tuned)
        for course, new in zip(courses, self._drafts(tuned, courses), strict=True):
            index = self.index["tuned"]
            known = next((n for n, i in enumerate(new) if i not in index), len(new))
            course.said += [index[i] for i in new[:known]]
        for side in reversed(SIDES):
            view = view_of(getattr(self.pair, side))
            self.ends |= {self.index[side][i] for i in view.info.eos_token_ids if i in self.index[side]}
            self.n_ctx = min(self.n_ctx or view.n_ctx, view.n_ctx)
            for course in self.going(courses):
                with self.asked.guard(course.prompt):
                    course.chosen[side] = self._choices(view, side, course)

    def _drafts(self, view: ModelView, courses: Sequence[_Course]) -> list[list[int]]:
        texts = [course.ids("tuned", self.shared["tuned"]) for course in courses]
        left = [self.most - len(course.said) for course in courses]
        try:
            found = greedy(view, texts, max_new_tokens=max(left))
        except (InputError, RuntimeError):  # of one of them: which one?
            found = [torch.empty(0, dtype=torch.int64)] * len(courses)
            for n, course in enumerate(courses):
                with self.asked.guard(course.prompt):
                    (found[n],) = greedy(view, [texts[n]], max_new_tokens=left[n])
        return [new[:n].tolist() for new, n in zip(found, left, strict=True)]

    def _choices(self, view: ModelView, side: str, course: _Course) -> list[int]:
        shared, first = self.shared[side], len(course.prompt_ids[side]) - 1
        return choices_among(view, course.ids(side, shared)[: first + self.most], shared, first=first).tolist()

    def goes_on(self, course: _Course) -> bool:
        """Return whether a text is to be drafted further; where it is not, the models have parted or never do."""
        room = self.n_ctx - len(course.prompt_ids["base"])
        for n, (base, tuned) in enumerate(zip(course.chosen["base"], course.chosen["tuned"], strict=True)):
            if base != tuned:
                course.parts_at = n
                return False
            if base in self.ends:
                return self._agree(course, f"both choose the same {n_of(n, 'token')} and then the end")
            if n + 1 == self.most:
                return self._agree(course, f"both choose the same {n_of(self.most, 'token')}")
            if n == room:
                return self._agree(course, f"both choose the same {n_of(n + 1, 'token')}, and the context is full")
            if n >= len(course.said) or course.said[n] != tuned:
                course.said[n:] = [tuned]
                return True
        raise AssertionError("a text is read until something is known of it")

    def _agree(self, course: _Course, why: str) -> bool:
        self.agreed[course.prompt.id] = why
        return False

    def placed(self, course: _Course, draws: int, seed: int) -> Divergence:
        """Return a divergence with positions beside it, drawn by the seed and the prompt's text alone."""
        n, chance = course.parts_at, random.Random(f"{seed} {course.prompt.stripped}")
        assert n is not None
        start, chosen = len(course.prompt_ids["base"]) - 1, list(zip(*(course.chosen[s] for s in SIDES), strict=True))
        first = Place(start + n, *chosen[n])
        again = [Place(start + m, *chosen[m]) for m in range(n + 1, len(chosen)) if chosen[m][0] != chosen[m][1]]
        before = range(course.n_special, first.position)
        later = sorted(chance.sample(again, min(draws, len(again))))
        earlier = [Place(p, *first[1:]) for p in sorted(chance.sample(before, min(draws, len(before))))]
        last = max(place.position for place in (first, *later))
        ids = {side: course.ids(side, self.shared[side])[: last + 1] for side in SIDES}
        return Divergence(course.prompt, ids, n, first, tuple(later), tuple(earlier))
