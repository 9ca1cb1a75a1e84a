"""What happens at the first token at which two models part: is it brought by the early layers, the late ones, or both?

Both models continue the same text greedily, up to the first position where their choices differ (see `divergence`).
There four cells tell what each half of the layers does, with Y(U, L) = logit(tuned's token) - logit(base's token) when
U's stream enters layer k and L's blocks run from there, under one final norm and unembedding (see `cells`):

    portable     Y(base, tuned) - Y(base, base)      what tuned late layers do on the base's stream
    matched      Y(tuned, tuned) - Y(tuned, base)    what they do on the stream of their own early layers
    interaction  matched - portable                  what late layers do only where the early ones were tuned too

All in logits, for k from 0 to n_layers (behind the last block all three are 0: none is left to run); numbers are told
of k = round(0.6 n_layers). Positive: towards the tuned model's token. Y(U, U) is the model U itself, exactly under its
own final norm and unembedding.

Beside it stand
- the same with the other model's final norm and unembedding;
- control models in the tuned one's place, at the same position and tokens (`unembed="tuned"`: with their own final
  norm and unembedding);
- later positions of the tuned model's text at which the choices differ again, each with its own two tokens, and earlier
  positions scored on the first divergence's two tokens; both drawn at random, averaged per prompt, at the headline;
- labels exchanged: portable and matched then change places, the interaction its sign, so that the interaction's test
  is one of sign flips (`FirstDivergence.swapped`).

What it does not say: the positions are selected on a disagreement, so that no mean here is about the average token;
that Y(base, base) < 0 < Y(tuned, tuned), each under its own unembedding, is how they were chosen. Effects depend on k,
on what is called late. Prompts after which the models never part are listed (`agreed`), not counted.

Memory and cost: see `cells`. Reference: the four cells are those of the public draft
PT-IT-Model-Differences, whose numbers are means of 0.76 (portable), 2.44 (matched) and 1.68 (interaction) logits.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lensdiff.analyses.first_divergence.cells import Scored, Text, cells
from lensdiff.analyses.first_divergence.defaults import DRAWS, READ_TOKENS
from lensdiff.analyses.first_divergence.divergence import Divergence, find_divergences
from lensdiff.analyses.first_divergence.result import ControlDivergence, FirstDivergence, headline_of
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.layers import chosen_indices
from lensdiff.models.pair import ModelPair
from lensdiff.models.templates import Template
from lensdiff.models.text import strings_of
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES

MAX_BYTES = 2**30


def first_divergence(
    pair: ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    *,
    layers: Sequence[int] | None = None,
    max_new_tokens: int = READ_TOKENS,
    unembed: str = "base",
    controls: Iterable[Model] = (),
    draws: int = DRAWS,
    seed: int = 0,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    level: float = 0.95,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> FirstDivergence:
    """Return where two models part after a prompt, or after each of a list, and the four cells there.

    Args:
        pair: both models, of `load_pair`.
        prompt: a prompt, or a list of them, of which a failing one is warned of and the rest go on.
        layers: at which streams enter, from 0 to n_layers (behind the last block); None for all.
        max_new_tokens: choices that are compared.
        unembed: "base" or "tuned": whose final norm and unembedding all four cells use.
        controls: in the tuned model's place: `pair.control(kind, seed)`, or models with the base's tokenizer.
        draws: later and earlier positions that are drawn.
        seed: of the draws.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the chat template of the tuned model writes the prompts.
        level: of the intervals over prompts.
        max_bytes: of the streams that are held at once.
        progress: show for a list how many prompts have been continued; None shows it on a terminal.

    Raises:
        InputError: an option that does not exist, a layer that there is not, no prompt, an id that comes twice, a
            control with another vocabulary; of one prompt (or of all in a list): the models do not read it as the same
            tokens, or put other special tokens in front, it cannot be tokenised, or a logit is not finite.
    """
    check_pair(pair, "first_divergence")
    check_controls(controls, "first_divergence")
    asked = Asked.of(prompt, template=template, model=pair)
    base = view_of(pair.base)
    wanted = chosen_indices(layers, range(base.n_layers + 1), "layers")
    if not 0 < level < 1:
        raise InputError(f"level={level} given, expected a number between 0 and 1 such as 0.95")
    _check(unembed, {"max_new_tokens": (max_new_tokens, 1), "draws": (draws, 0), "max_bytes": (max_bytes, 1)})
    with asked.bar("continuing prompts", progress, len(asked.prompts)) as advance:
        found, agreed = find_divergences(
            pair, asked, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos, draws=draws, seed=seed, advance=advance
        )
    asked.settle()
    options: dict[str, Any] = {"layers": list(wanted), "max_new_tokens": max_new_tokens, "unembed": unembed}
    options |= {"draws": draws, "prepend_bos": prepend_bos, "level": level}
    scores = _of_pair(pair, found, wanted, unembed, max_bytes)
    result = FirstDivergence(
        pair.provenance("first_divergence", options, seed),
        n_layers=base.n_layers,
        layers=wanted,
        unembed=unembed,
        **_told(pair, found),
        **scores,
        controls=torch.zeros(0, len(found), 2, 2, len(wanted), dtype=torch.float64),
        control_layers=wanted,
        agreed=agreed,
        failures=asked.failures,
        level=level,
    )
    read = partial(control_divergence, result=result, layers=wanted, max_bytes=max_bytes)
    return asked.stamped(result.with_controls([read(pair.base, control) for control in controls]))


def control_divergence(
    base: Model,
    control: Model,
    result: FirstDivergence,
    *,
    layers: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
) -> ControlDivergence:
    """Return the cells of a control in the tuned model's place; one that was made for it is let go of.

    Args:
        layers: None for the headline alone.

    Raises:
        InputError: its vocabulary is not the base's, or there is no such layer.
    """
    view, own = view_of(control), view_of(base)
    if view.d_vocab != own.d_vocab:
        raise InputError(f"control {view.info.id} has d_vocab {view.d_vocab}, expected the base's {own.d_vocab}")
    wanted = chosen_indices([result.headline] if layers is None else layers, range(own.n_layers + 1), "layers")
    was_made = view.is_made
    choices = [tuple(two) for two in result.choices.tolist()]
    texts = [
        Text(
            dict.fromkeys(SIDES, torch.tensor(ids)), (Scored(len(ids) - 1, (first, first), (second, second)),)
        )
        for ids, (first, second) in zip(result.read, choices, strict=True)
    ]  # fmt: skip

    def side(name: str) -> ModelView:
        return view if name == "tuned" else own

    found = cells(side, texts, wanted, [result.unembed], beside=0, max_bytes=max_bytes)
    provenance = view.provenance("first_divergence", {"unembed": result.unembed, "layers": list(wanted)})
    if not was_made:
        view.free()
    yields = _stacked([scores[0, ..., 0] for scores in found], len(wanted))
    return ControlDivergence(provenance, result.prompt_id, wanted, result.unembed, yields)


def _of_pair(
    pair: ModelPair, found: Sequence[Divergence], layers: Sequence[int], unembed: str, max_bytes: int
) -> dict[str, Any]:
    """Return the cells of the pair after each prompt, by their name in the result."""
    n_layers = view_of(pair.base).n_layers
    at = list(layers).index(headline_of(layers, n_layers))
    shared = [ids.tolist() for ids in pair.shared_tokens]

    def ids(token: int) -> tuple[int, int]:
        return shared[0][token], shared[1][token]

    texts = [
        Text(one.ids, tuple(Scored(place.position, ids(place.base), ids(place.tuned)) for place in one.places))
        for one in found
    ]
    heads = (unembed, SIDES[1 - SIDES.index(unembed)])
    scores = cells(lambda side: view_of(getattr(pair, side)), texts, layers, heads, beside=at, max_bytes=max_bytes)
    later, earlier = [], []
    for one, score in zip(found, scores, strict=True):
        n = 1 + len(one.later)
        later.append(score[0, :, :, at, 1:n].mean(dim=-1))  # NaN of none
        earlier.append(score[0, :, :, at, n:].mean(dim=-1))
    return {
        "yields": _stacked([score[0, ..., 0] for score in scores], len(layers)),
        "with_other": _stacked([score[1, ..., 0] for score in scores], len(layers)),
        "later": _stacked(later),
        "earlier": _stacked(earlier),
        "n_later": torch.tensor([len(one.later) for one in found], dtype=torch.int64),
        "n_earlier": torch.tensor([len(one.earlier) for one in found], dtype=torch.int64),
    }


def _stacked(scores: Sequence[Tensor], *more: int) -> Tensor:
    """Return the cells of all prompts on a first axis."""
    return torch.stack(list(scores)) if scores else torch.zeros(0, 2, 2, *more, dtype=torch.float64)


def _told(pair: ModelPair, found: Sequence[Divergence]) -> dict[str, Any]:
    """Return what is said of each divergence, by its name in the result."""
    tokenizer, shared = view_of(pair.base).tokenizer, pair.shared_tokens[0].tolist()
    choices = [(shared[one.first.base], shared[one.first.tuned]) for one in found]
    read = [one.ids["base"][: one.first.position + 1] for one in found]
    words = [strings_of(tokenizer, two) for two in choices]
    return {
        "prompt_id": tuple(one.prompt.id for one in found),
        "prompt": tuple(one.prompt.stripped for one in found),
        "common": tuple(
            strings_of(tokenizer, tuple(ids[len(ids) - one.n_out :].tolist()))
            for ids, one in zip(read, found, strict=True)
        ),
        "base_token": tuple(first for first, _ in words),
        "tuned_token": tuple(second for _, second in words),
        "choices": torch.tensor(choices, dtype=torch.int64).reshape(-1, 2),
        "read": tuple(tuple(ids.tolist()) for ids in read),
    }


def _check(unembed: str, numbers: dict[str, tuple[int, int]]) -> None:
    if unembed not in SIDES:
        raise InputError(f"unembed={unembed!r} is none of {', '.join(SIDES)}")
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r} given, expected a whole number of at least {least}")
