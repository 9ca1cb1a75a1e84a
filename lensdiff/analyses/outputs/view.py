"""The forced response coloured by how far apart the models' next-token distributions are; both at a chosen token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lensdiff.analyses.outputs.output_shift import KINDS, OutputShift
from lensdiff.views.fallback import table_html
from lensdiff.views.numbers import known_all, rounded
from lensdiff.views.prompts import how_read, prompt_label
from lensdiff.views.show import register_many, register_view
from lensdiff.views.small_table import Cell
from lensdiff.views.widget import Widget

LIKELY = 6  # tokens of each model at a position
CHANGED = 15
OUTSIDE = 0.01  # a mean probability of unshared tokens that is worth a word


class LikelyToken(NamedTuple):
    """A token that a model finds likely: its number among the prompt's words, and its probability."""

    word: int
    probability: float


@dataclass(frozen=True)
class PromptData:
    """One response; what has an entry per model has the base's first.

    Attributes:
        label: under which the prompt is chosen.
        names: of the models.
        facts: the line above the response.
        tokens: of the response.
        first: the number of the token that is shown first, the one with the largest KL.
        kl: KL(tuned || base) at each token in nats, None where it is infinite.
        js: Jensen-Shannon distance at each token, from 0 to 1.
        kinds: of each token: "unshifted", "marginal" or "shifted".
        choice_rank: the base's rank of the tuned model's choice at each token, from 1.
        ranks: [model][token], of the token itself, from 1.
        probabilities: [model][token], of the token itself.
        words: that `likely` mentions.
        likely: [model][token], the most probable tokens.
        changed: of the vocabulary: token, mean probability in base and tuned, their difference.
        end: the end token after the response; "" where it was cut off, None where nobody knows.
    """

    label: str
    names: list[str]
    facts: str
    tokens: Sequence[str]
    first: int
    kl: list[float | None]
    js: list[float | None]
    kinds: Sequence[str]
    choice_rank: list[int]
    ranks: list[list[int]]
    probabilities: list[list[float | None]]
    words: Sequence[str]
    likely: list[list[list[LikelyToken]]]
    changed: list[list[Cell]]
    end: str | None


@dataclass(frozen=True)
class OutputsData:
    """What the script of the responses is given: prompts, one of which is chosen."""

    prompts: list[PromptData]


@register_view
def show_output_shift(result: OutputShift) -> Widget:
    """Return the coloured response of one prompt."""
    return outputs_widget([result])


@register_many(OutputShift)
def outputs_widget(results: Sequence[OutputShift]) -> Widget:
    """Return the coloured responses of several prompts, one chosen at a time."""
    name = results[0].provenance.model if results else ""
    fallback = "".join(
        table_html(result.top(), f"{result.prompt_id} the tokens that differ most".strip()) for result in results
    )
    prompts = [_prompt(result) for result in results]
    return Widget("outputs", OutputsData(prompts), f"Outputs: {name}", height=760, fallback=fallback)


def _prompt(result: OutputShift) -> PromptData:
    options = result.provenance.options
    base = str(options["base"])
    tuned = result.provenance.model.removeprefix(f"{base} -> ")
    changed = result.changed_tokens(CHANGED)
    return PromptData(
        label=prompt_label(result.prompt_id, result.prompt),
        names=[f"base: {base}", f"tuned: {tuned}"],
        facts=facts(result),
        tokens=result.out_tokens,
        first=int(result.kl.argmax()) if len(result.kl) else 0,
        kl=known_all(result.kl),
        js=known_all(result.js),
        kinds=result.kinds,
        choice_rank=result.choice_rank.tolist(),
        ranks=result.rank.tolist(),
        probabilities=[known_all(model) for model in result.probability],
        words=result.words,
        likely=[
            [_likely(*token) for token in zip(*model, strict=True)]
            for model in zip(result.likely.tolist(), result.likely_probability.tolist(), strict=True)
        ],
        changed=[[row[0], *known_all(row[1:])] for row in changed.itertuples(index=False)],
        end=result.end,
    )


def _likely(words: list[int], chances: list[float]) -> list[LikelyToken]:
    return [LikelyToken(i, rounded(p, 3)) for i, p in zip(words[:LIKELY], chances[:LIKELY], strict=True)]


def facts(result: OutputShift) -> str:
    """Return what belongs beside a response in one line."""
    if not result.out_tokens:
        return "the response is empty"
    kinds = ", ".join(f"{result.kinds.count(kind) / len(result.kinds):.0%} {kind}" for kind in KINDS)
    k = result.likely.shape[-1]
    parts = [
        f"mean KL(tuned || base) {float(result.kl.mean()):.3g} nats, mean Jensen-Shannon distance "
        f"{float(result.js.mean()):.3g}",
        kinds,
        f"{float(result.agreement.mean()):.0%} of the {k} most probable tokens shared",
    ]
    base, tuned = result.outside.double().mean(dim=1).tolist()
    if max(base, tuned) > OUTSIDE:
        parts.append(
            f"left out: tokens that one model alone has, {base:.1%} of the base's and {tuned:.1%} of the tuned"
        )
    return "; ".join([*parts, *how_read(result.response_kind, merged=result.merged, of=result.provenance)])
