"""What is measured of a model that reads prompts in one rendering: a number for each prompt.

    instruction_use   how much less likely the response is with another prompt's instruction (swap), nats per token
    attention         the response's attention to instruction, context and the rest, the first key apart, mean of heads
    density           the share of the attribution's importance density on instruction, context and other words
    output_shift      the Jensen-Shannon distance of next-token distributions, mean over the response; see `shifts`
    knock_out         what the response loses with attention to the instruction cut in all layers, nats per token

A part that a prompt does not mark has no number. Token 0, the sink, is never cut: where a raw prompt begins with its
instruction that is the instruction's first token, in a template it is the template's. Reference: the analyses of these
names.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.outputs.distributions import js_distance
from lensdiff.analyses.outputs.output_shift import output_shift
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.forced_reading import Reading, response_logits
from lensdiff.models.forced_text import as_base_reads
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import encode
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

Text = str | Response
ByPrompt = dict[str, float]


class Asked(NamedTuple):
    """Prompts in one rendering, the text that is forced after each, and what measures need beside them."""

    prompts: Sequence[Prompt]
    texts: Sequence[Text]
    draws: int
    seed: int

    def read_by(self, pair: ModelPair, side: str) -> list[Text]:
        """Return the texts in the ids of the base or the tuned model."""
        if side == "tuned":
            return list(self.texts)
        both = zip(self.prompts, self.texts, strict=True)
        return [as_base_reads(pair, prompt, text) if isinstance(text, Response) else text for prompt, text in both]


Measure = Callable[[ModelPair, Asked], Mapping[str, Mapping[str, ByPrompt]]]  # by name, by model, by the prompt's id
OfModel = Callable[[Model, Sequence[Prompt], Sequence[Text]], Mapping[str, ByPrompt]]


def use(pair: ModelPair, asked: Asked) -> dict[str, dict[str, ByPrompt]]:
    """Return the instruction use by swap."""
    found = instruction_use(
        pair, asked.prompts, list(asked.texts), draws=asked.draws, seed=asked.seed, min_tokens=1, progress=False
    )
    of_sides: dict[str, ByPrompt] = {side: {} for side in SIDES}
    for name, model, value in zip(found.prompt_id, found.model.tolist(), found.use.tolist(), strict=True):
        of_sides[SIDES[model]][name] = value
    return {"instruction_use": of_sides}


def looks(model: Model, prompts: Sequence[Prompt], texts: Sequence[Text]) -> dict[str, ByPrompt]:
    """Return the response's attention to each part, mean over layers and heads."""
    found = attention(model, prompts, texts, keep_patterns=False, progress=False)
    return {
        f"attention_{part}": {one.prompt_id: float(getattr(one, f"{part}_share").mean()) for one in found}
        for part in ("instruction", "context", "rest")
    }


def densities(model: Model, prompts: Sequence[Prompt], texts: Sequence[Text]) -> dict[str, ByPrompt]:
    """Return each segment's share of the importance density; NaN of one that the prompt does not have."""
    found: dict[str, ByPrompt] = {f"density_{part}": {} for part in ("instruction", "context", "other")}
    for one in attribute(model, prompts, texts, deletion_draws=0, progress=False):
        shares = one.shares().set_index("segment")
        for name, values in found.items():
            n, share = shares.loc[name.removeprefix("density_"), ["n_in", "share"]]
            values[one.prompt_id] = float(share) if n else float("nan")
    return found


def losses(model: Model, prompts: Sequence[Prompt], texts: Sequence[Text]) -> dict[str, ByPrompt]:
    """Return what the response loses with its instruction cut off, mean over its tokens."""
    found = knock_out(model, prompts, texts, draws=0, progress=False)
    return {"knock_out": {one.prompt_id: float(one.drop[0].mean()) for one in found}}


def of_each(measure: OfModel, pair: ModelPair, asked: Asked) -> dict[str, dict[str, ByPrompt]]:
    """Return what a measure of one model finds in both."""
    found: dict[str, dict[str, ByPrompt]] = {}
    for side in reversed(SIDES):
        for name, values in measure(getattr(pair, side), asked.prompts, asked.read_by(pair, side)).items():
            found.setdefault(name, {})[side] = values
    return found


NAMED: dict[str, Measure] = {
    "instruction_use": use,
    "attention": partial(of_each, looks),
    "density": partial(of_each, densities),
    "knock_out": partial(of_each, losses),
}
SHIFT = "output_shift"  # a distance, of no model alone


def of_function(function: Callable[..., Sequence[float]]) -> Measure:
    """Return a measure of the user's own: of (model, prompts, responses) a number for each prompt."""
    name = getattr(function, "__name__", "measure")

    def own(model: Model, prompts: Sequence[Prompt], texts: Sequence[Text]) -> dict[str, ByPrompt]:
        values = [float(value) for value in function(model, prompts, texts)]
        if len(values) != len(prompts):
            raise InputError(f"measure {name} gives {len(values)} numbers for {len(prompts)} prompts, expected as many")
        return {name: {prompt.id: value for prompt, value in zip(prompts, values, strict=True)}}

    return partial(of_each, own)


def shifts(pair: ModelPair, raw: Asked, chat: Asked) -> dict[str, ByPrompt]:
    """Return distances of next-token distributions, mean over the response: between models, and between renderings.

    "raw", "chat": between the models, in that rendering, over the tokens that both have. "base", "tuned": between the
    renderings, in that model, at the tokens that are the same in both, counted from the response's end: where a
    template puts no space before an answer, its first token is another one.
    """
    found = {
        name: {
            one.prompt_id: float(one.js.mean())
            for one in output_shift(pair, asked.prompts, asked.texts, progress=False)
        }
        for name, asked in (("raw", raw), ("chat", chat))
    }
    for side in reversed(SIDES):
        view = view_of(getattr(pair, side))
        both = zip(raw.prompts, raw.read_by(pair, side), chat.prompts, chat.read_by(pair, side), strict=True)
        found[side] = {one.id: _between(view, (one, text), (other, again)) for one, text, other, again in both}
    return found


@torch.no_grad()
def _between(view: ModelView, *ways: tuple[Prompt, Text]) -> float:
    read = [encode(view, prompt, text) for prompt, text in ways]
    said = [encoded.response_ids for encoded in read]
    same = 0
    while same < min(map(len, said)) and said[0][-1 - same] == said[1][-1 - same]:
        same += 1
    if not same:
        return float("nan")
    readings = [Reading(encoded.ids, encoded.n_response) for encoded in read]
    logits = {place: found[-same:].cpu().float() for place, found in response_logits(view, readings)}
    one, other = (logits[place].log_softmax(dim=-1) for place in range(2))
    return float(js_distance(one, other).mean())
