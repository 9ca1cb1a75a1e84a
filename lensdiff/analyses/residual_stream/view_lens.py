"""The lens of single prompts: response tokens across, layers down, in each cell the word that the layer would say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lensdiff.analyses.residual_stream.lens import LogitLens
from lensdiff.results import Diff
from lensdiff.results.numbers import n_of
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import rounded
from lensdiff.views.prompts import how_rendered, prompt_label, shared_prompts
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.widget import Role, Widget
from lensdiff.views.words import WordIndex

TOKENS = 32  # of a response that are drawn
LIKELY = 5  # words of a chosen cell
TOP = 12  # rows of the table for readers without scripts
DIGITS = 2
READ_BY = (
    "Each layer's stream is read as if it were the last, by the model's own final norm and unembedding, with its scale "
    "and cap of logits: an early layer's words are what these make of a stream that was not written for them."
)
READ_BY_EACH = (
    f"{READ_BY} The base's streams are read by the base's, the tuned model's by the tuned model's: the two maps differ "
    "by these, too."
)


@dataclass(frozen=True)
class SideData:
    """What one model's layers say; all by [layer][token].

    Attributes:
        role: its colour; name: the model's.
        likely: the most probable words' numbers, best first; chances: their probabilities.
        prob: of the response's token; rank: its rank, from 1.
        kl: to the model's output, nats.
        committed: by token, the layer from which the output's word stays.
    """

    role: Role
    name: str
    likely: list[list[list[int]]]
    chances: list[list[list[float]]]
    prob: list[list[float]]
    rank: list[list[int]]
    kl: list[list[float]]
    committed: list[int]


@dataclass(frozen=True)
class PromptData:
    """One prompt: its label, what is left out of it, the response's tokens and end, layers, words, and models."""

    label: str
    note: str
    tokens: Sequence[str]
    layers: Sequence[int]
    words: Sequence[str]
    sides: list[SideData]
    end: str | None


@dataclass(frozen=True)
class LensData:
    """What the script of the map is given: how layers are read, and prompts, one of which is chosen."""

    how: str
    prompts: list[PromptData]


@register_view
def show_lens(result: LogitLens) -> Widget:
    """Return the map of one model and prompt."""
    return _widget([[result]], ["tuned"])


@register_many(LogitLens)
def show_lenses(results: Sequence[LogitLens]) -> Widget:
    """Return the maps of one model and several prompts, one chosen at a time."""
    return _widget([[one] for one in results], ["tuned"])


@register_diff(LogitLens)
def _(result: Diff[Any]) -> Widget:
    return _widget([list(pair) for pair in shared_prompts(result)], ["base", "tuned"])


def _widget(prompts: list[list[LogitLens]], roles: list[Role]) -> Widget:
    names = " -> ".join(one.provenance.model for one in prompts[0]) if prompts else ""
    data = LensData(READ_BY if len(roles) == 1 else READ_BY_EACH, [_prompt(sides, roles) for sides in prompts])
    fallback = "".join(
        table_html(one.top(TOP), f"{one.prompt_id} {one.provenance.model}: tokens it commits to last".strip())
        for sides in prompts
        for one in sides
    )
    return Widget("lens", data, f"Logit lens: {names}", height=820, fallback=fallback)


def _prompt(sides: list[LogitLens], roles: list[Role]) -> PromptData:
    first, index = sides[0], WordIndex()
    n = min(TOKENS, len(first.out_tokens))
    found = [_side(one, role, index, n) for one, role in zip(sides, roles, strict=True)]
    left = len(first.out_tokens) - n
    first_few = f"; the first {n} of {n_of(n + left, 'response token')}" if left else ""
    note = f"{how_rendered(first.provenance)}{first_few}"
    label = prompt_label(first.prompt_id, first.prompt)
    end = "" if left else first.end
    return PromptData(label, note, first.out_tokens[:n], first.layers, index.words(), found, end)


def _side(result: LogitLens, role: Role, index: WordIndex, n: int) -> SideData:
    likely, chances = result.likely[:, :n, :LIKELY].tolist(), result.likely_prob[:, :n, :LIKELY].tolist()
    return SideData(
        role,
        result.provenance.model,
        [[[index(result.words[word]) for word in cell] for cell in layer] for layer in likely],
        [[[rounded(p, DIGITS) for p in cell] for cell in layer] for layer in chances],
        _rounded(result.prob[:, :n].tolist()),
        result.rank[:, :n].tolist(),
        _rounded(result.kl[:, :n].tolist()),
        result.committed[:n].tolist(),
    )


def _rounded(values: list[list[float]]) -> list[list[float]]:
    return [[rounded(value, DIGITS) for value in layer] for layer in values]
