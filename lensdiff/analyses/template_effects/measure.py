"""The template told apart from the tuning: two models, two renderings, and what each of the two changes.

    y[m, r]       a number of model m (base, tuned) that reads a prompt in rendering r (raw, chat)
    model         mean over r of y[tuned, r] - y[base, r]
    template      mean over m of y[m, chat] - y[m, raw]
    interaction   (y[tuned, chat] - y[base, chat]) - (y[tuned, raw] - y[base, raw])

All four read the same response: the one that is given, the prompt's reference, or else the tuned model's own in its
template. As a text it follows the prompt as that is written: after a space, or where the template puts an answer. The
template is the tuned model's, for both. Effects are means over prompts, of those that have all four numbers, with
paired t intervals (sign flips where all prompts differ by the same); one table is one family of p-values.

A pair that differs in its template alone has the model effect 0, exactly, and the interaction 0. An output shift is a
distance between two of the four, never negative: its effects of model and template are mean distances (between the
models, between the renderings), which have no p; its interaction is the models' distance in the template less that in
raw prompts.

Ignored: what the base would do with a template of its own; control models, which a report sets beside the same numbers
in one rendering. Memory and cost: those of the measures, twice. Reference: ours.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.template_effects.defaults import DRAWS, MEASURES
from lensdiff.analyses.template_effects.measures import NAMED, SHIFT, Asked, ByPrompt, of_function, shifts
from lensdiff.analyses.template_effects.result import EFFECTS, RENDERINGS, TemplateEffects
from lensdiff.defaults import MAX_NEW_TOKENS
from lensdiff.inputs.spans import shorten
from lensdiff.models import asked as door
from lensdiff.models import view_of
from lensdiff.models.forced_text import force_base, force_tuned
from lensdiff.models.given import check_pair
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import ChatTemplate
from lensdiff.models.text import own_responses
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_counts, check_seed
from lensdiff.stats.samples import check_level

Cells = Float[Tensor, "model template prompt"]


def effects_of(cells: Float[Tensor, "model template prompt"]) -> Float[Tensor, "effect prompt"]:
    """Return the effects of model and template, and their interaction, of each prompt; see the module."""
    (base_raw, base_chat), (tuned_raw, tuned_chat) = cells
    in_raw, in_chat = tuned_raw - base_raw, tuned_chat - base_chat
    template = ((base_chat - base_raw) + (tuned_chat - tuned_raw)) / 2
    return torch.stack([(in_raw + in_chat) / 2, template, in_chat - in_raw])


def template_effects(
    pair: ModelPair,
    prompts: Any,  # what is neither a prompt nor a list of them is refused in words
    response: Any = None,
    *,
    measure: Any = MEASURES,  # likewise
    draws: int = DRAWS,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    level: float = 0.95,
) -> TemplateEffects:
    """Return what the model, the chat template and both together change, paired over prompts.

    Args:
        pair: both models; the tuned model's tokenizer has the chat template.
        prompts: a raw prompt, or a list of them (one that fails is warned of and the rest go on).
        response: the text that is forced, or a `Response`, for a list a list of as many; None, also of a single one,
            for the prompt's reference, or the tuned model's own in its template where it has none.
        measure: "instruction_use", "attention", "density", "output_shift", "knock_out", or a function of (model,
            prompts, responses), which gives a number for each prompt; or several of them.
        draws: other prompts whose instructions take the prompt's place, for "instruction_use".
        seed: of these draws, and of sign flips.
        max_new_tokens: of the tuned model's own response.
        level: of the intervals over prompts.

    Raises:
        InputError: the tuned model's tokenizer has no chat template, there is no such measure, or one comes twice; no
            measure could be had; of one prompt (or of all in a list): it is rendered already or cannot be, the two
            models do not read it as the same tokens, or the response is empty.
    """
    check_pair(pair, "template_effects")
    chosen = _chosen(measure)
    check_seed(seed)
    check_level(level)
    check_counts(draws=draws, max_new_tokens=max_new_tokens)
    template = ChatTemplate.of(pair)
    raw = door.Asked.of(prompts, response)
    for prompt in raw.prompts:
        with raw.guard(prompt):
            if prompt.rendering:
                name = repr(prompt.id or prompt.stripped[:40])
                raise InputError(f"prompt {name} is rendered already, expected a raw one")
    chat = door.Asked.of(raw.prompts[0] if raw.single else list(raw.prompts), template=template)
    chat.errors = raw.errors = raw.errors | chat.errors  # what fails in one rendering is left out of both
    texts = _texts(pair, raw, chat, max_new_tokens)
    for way in (raw, chat):
        _check_tokens(pair, way, texts)
    chat.settle()
    ids = [prompt.id for prompt in chat.going()]
    both = [Asked(asked.going(), [texts[name] for name in ids], draws, seed) for asked in (raw, chat)]
    found, without = _measured(pair, chosen, both[0], both[1])
    if not found:
        name, reason = next(iter(without.items()))
        raise InputError(f"no measure could be had of the four; {name}: {reason}")
    cells, effects = zip(*(_of_ids(values, ids) for values in found.values()), strict=True)
    recorded = {"measure": list(chosen), "draws": draws, "max_new_tokens": max_new_tokens, "level": level}
    return TemplateEffects(
        pair.provenance("template_effects", recorded | {"template": "raw and chat"}, seed),
        tuple(found),
        tuple(ids),
        torch.stack(cells),
        torch.stack(effects),
        without,
        chat.failures,
        level,
    )


def _chosen(measure: Any) -> dict[str, Any]:
    if not isinstance(measure, Sequence) and not callable(measure):
        raise InputError(f"measure={shorten(measure)} given, expected a name, a function, or a list of them")
    given = [measure] if isinstance(measure, str) or callable(measure) else list(measure)
    found: dict[str, Any] = {}
    for one in given:
        if not callable(one) and one not in MEASURES:
            raise InputError(f"measure={shorten(one)} is none of {', '.join(MEASURES)}, nor a function")
        name = getattr(one, "__name__", "measure") if callable(one) else one
        if name in found:
            raise InputError(f"measure {name!r} comes twice, expected it once")
        found[name] = one
    if not found:
        raise InputError(f"no measure is given, expected some of {', '.join(MEASURES)}")
    return found


def _texts(pair: ModelPair, raw: door.Asked, chat: door.Asked, max_new_tokens: int) -> dict[str, str | Response]:
    """Return by id the text that all four read: what is given, the reference, or the tuned model's own."""
    texts: dict[str, str | Response] = {}
    for prompt, given in zip(raw.prompts, raw.responses, strict=True):
        said = prompt.reference if given is None else given
        if not isinstance(said, str) or said.strip():
            texts[prompt.id] = said
    left = door.Asked(tuple(prompt for prompt in chat.going() if prompt.id not in texts), chat.single)
    if left.prompts:
        texts |= own_responses(view_of(pair.tuned), left, max_new_tokens=max_new_tokens, prepend_bos=None)
        chat.errors.update(left.errors)
    for prompt in chat.going():
        said = texts[prompt.id]
        with chat.guard(prompt):
            if isinstance(said, Response) and not said.token_ids:
                name = repr(prompt.id or prompt.stripped[:40])
                raise InputError(f"the response to prompt {name} is empty: there is no text to read")
    return texts


def _check_tokens(pair: ModelPair, asked: door.Asked, texts: Mapping[str, str | Response]) -> None:
    """Keep as failed what the two models do not read as the same tokens."""
    view, forced = view_of(pair.tuned), []
    for prompt in asked.going():
        with asked.guard(prompt):
            forced.append(force_tuned(pair, view, prompt, texts[prompt.id], prepend_bos=None))
    view = view_of(pair.base)
    for text in forced:
        with asked.guard(text.prompt):
            force_base(pair, view, text, prepend_bos=None)


def _measured(
    pair: ModelPair, chosen: dict[str, Any], raw: Asked, chat: Asked
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return each number's cells by model, rendering and prompt, or its distances; and why measures have none."""
    found: dict[str, Any] = {}
    without: dict[str, str] = {}
    for name, measure in chosen.items():
        try:
            with warnings.catch_warnings():  # of prompts that lack what a measure reads: `n` counts those that have it
                warnings.filterwarnings("ignore", "prompt .* failed: ", UserWarning)
                if name == SHIFT:
                    found[name] = shifts(pair, raw, chat)
                    continue
                read = NAMED[name] if isinstance(measure, str) else of_function(measure)
                of_ways = [read(pair, asked) for asked in (raw, chat)]
        except InputError as error:
            without[name] = str(error)
            continue
        for number in of_ways[0]:
            found[number] = {side: [way[number][side] for way in of_ways] for side in SIDES}
    return found, without


def _of_ids(values: dict[str, Any], ids: Sequence[str]) -> tuple[Cells, Float[Tensor, "effect prompt"]]:
    """Return a number's cells and effects, prompt by prompt; NaN where a prompt lacks one of the four."""

    def row(found: ByPrompt) -> Tensor:
        return torch.tensor([found.get(name, torch.nan) for name in ids], dtype=torch.float64)

    if set(values) == set(SIDES):
        cells = torch.stack([torch.stack([row(way) for way in values[side]]) for side in SIDES])
        return cells, effects_of(cells)
    raw, chat, base, tuned = (row(values[name]) for name in (*RENDERINGS, *SIDES))
    effects = torch.stack([(raw + chat) / 2, (base + tuned) / 2, chat - raw])
    assert len(effects) == len(EFFECTS)
    return torch.full((len(SIDES), len(RENDERINGS), len(ids)), torch.nan, dtype=torch.float64), effects
