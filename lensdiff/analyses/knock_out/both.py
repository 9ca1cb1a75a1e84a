"""The passes behind `KnockOutShift`: forced texts in both models of a pair, and in controls.

A pair is asked for one model at a time, the tuned one first. A prompt that fails in one place fails everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.knock_out.beside import with_controls
from lensdiff.analyses.knock_out.cuts import CUTS, sweep
from lensdiff.analyses.knock_out.defaults import DRAWS, SWEEP_DRAWS
from lensdiff.analyses.knock_out.passes import Drops, Plan, Text, drops, text_of
from lensdiff.analyses.knock_out.result import medians, slopes
from lensdiff.analyses.knock_out.shift import PARTS, KnockOutShift
from lensdiff.analyses.position.measure import position_means
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.forced_text import Forced, force_base, force_tuned
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import encode, strings_of
from lensdiff.results import Provenance
from lensdiff.results.diff import SIDES

MIN_TOKENS = 2  # of a response that is read: a slope needs two
Texts = Mapping[str, Sequence[str | Response | None]]


class Item(NamedTuple):
    """A text of a prompt as one model reads it."""

    name: str
    prompt: Prompt
    text: Text
    tokens: tuple[str, ...]


class Row(NamedTuple):
    """What was found of one text in one model; `model` counts the models."""

    item: Item
    model: int
    whole: Drops
    windows: Drops | None


def knock_out_shift(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    texts: Texts,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    controls: Iterable[Model] = (),
    level: float = 0.95,
) -> KnockOutShift:
    """Return what forced texts lose without their instruction in both models of a pair, beside controls.

    Args:
        texts: by name, a response to each prompt in the base's ids; None or an empty one where there is none.
        draws: of as many other prompt tokens, for all layers cut; windows take one of them.
        controls: `pair.control(kind, seed)`, or models with the base's tokenizer.

    Raises:
        InputError: attention scores cannot be written; or of all prompts: none marks an instruction, the models do not
            read a text as the same tokens, or it cannot be tokenised.
    """
    asked, view = Asked.of(list(prompts)), view_of(pair.tuned)
    forced: list[tuple[str, Forced, Item]] = []
    left_out = 0
    for name, prompt, response in _each(asked, texts):
        with asked.guard(prompt):
            found = force_tuned(pair, view, prompt, response, prepend_bos=None)
            text = text_of(view, prompt, found.tuned, seed)
            if text.n_response < MIN_TOKENS:
                left_out += 1
                continue
            tokens = strings_of(view.tokenizer, found.tuned.response_ids)
            forced.append((name, found, Item(name, prompt, text, tokens)))
    plans = _plans(view.n_layers, draws)
    rows = _read(view, 1, [item for _, _, item in forced if item.prompt.id not in asked.errors], plans)
    view, in_base = view_of(pair.base), []
    for name, found, item in forced:
        with asked.guard(found.prompt):
            encoded = force_base(pair, view, found, prepend_bos=None)
            in_base.append(Item(name, found.prompt, text_of(view, found.prompt, encoded, seed), item.tokens))
    rows += _read(view, 0, [item for item in in_base if item.prompt.id not in asked.errors], plans)
    provenance = pair.provenance("knock_out", {"draws": draws, "level": level}, seed)
    alone = asked.stamped(_result(provenance, SIDES, view, texts, asked, rows, left_out, level))
    beside = [knock_out_control(control, prompts, texts, seed=seed, level=level) for control in controls]
    asked.settle()
    return with_controls(alone, beside) if beside else alone


def knock_out_control(
    model: Model, prompts: Sequence[Prompt], texts: Texts, *, seed: int = 0, level: float = 0.95
) -> KnockOutShift:
    """Return what forced texts lose in a control, all layers cut; it reads what the base reads.

    Raises:
        InputError: as `knock_out_shift`.
    """
    asked, view, items, left_out = Asked.of(list(prompts)), view_of(model), [], 0
    was_made = view.is_made
    for name, prompt, response in _each(asked, texts):
        with asked.guard(prompt):
            encoded = encode(view, prompt, response)
            text = text_of(view, prompt, encoded, seed)
            if text.n_response < MIN_TOKENS:
                left_out += 1
                continue
            items.append(Item(name, prompt, text, ()))
    items = [item for item in items if item.prompt.id not in asked.errors]
    rows = _read(view, 0, items, _plans(view.n_layers, 0)[:1])
    if not was_made:
        view.free()
    asked.settle()
    provenance = view.provenance("knock_out", {"level": level}, seed)
    return asked.stamped(_result(provenance, (view.info.id,), view, texts, asked, rows, left_out, level))


def _each(asked: Asked, texts: Texts) -> Iterable[tuple[str, Prompt, str | Response]]:
    """Yield the text's name, the prompt and the response of all that may be read."""
    for place, prompt in enumerate(asked.prompts):
        for name, responses in texts.items():
            response = responses[place]
            said = response.token_ids if isinstance(response, Response) else (response or "").strip()
            if response is not None and said and prompt.id not in asked.errors:
                yield name, prompt, response


def _plans(n_layers: int, draws: int) -> list[Plan]:
    """Return how all layers are cut, and how windows of them."""
    windows = Plan(CUTS, sweep(n_layers), draws=min(draws, SWEEP_DRAWS))
    return [Plan(CUTS, [(0, n_layers - 1)], draws=draws), windows]


def _read(view: ModelView, model: int, items: Sequence[Item], plans: Sequence[Plan]) -> list[Row]:
    texts = [item.text for item in items]
    whole = drops(view, texts, plans[0])
    windows = drops(view, texts, plans[1]) if len(plans) > 1 else [None] * len(texts)
    both = zip(items, whole, windows, strict=True)
    return [Row(item, model, of_whole, of_windows) for item, of_whole, of_windows in both]


def _result(
    provenance: Provenance,
    models: tuple[str, ...],
    view: ModelView,
    texts: Texts,
    asked: Asked,
    rows: Sequence[Row],
    left_out: int,
    level: float,
) -> KnockOutShift:
    """Return the rows in order: prompts as given, then texts, then models."""
    places, names = {prompt.id: i for i, prompt in enumerate(asked.prompts)}, tuple(texts)
    rows = [row for row in rows if row.item.prompt.id not in asked.errors]
    rows = sorted(rows, key=lambda row: (places[row.item.prompt.id], names.index(row.item.name), row.model))
    windows, n, kept = sweep(view.n_layers), len(CUTS), [row for row in rows if row.item.tokens]
    return KnockOutShift(
        provenance,
        models,
        names,
        windows,
        prompt_id=tuple(row.item.prompt.id for row in rows),
        text=tuple(row.item.name for row in rows),
        model=torch.tensor([row.model for row in rows], dtype=torch.int64),
        n_out=torch.tensor([len(row.whole.log_prob) for row in rows], dtype=torch.int64),
        log_prob=_stacked([row.whole.log_prob.mean() for row in rows]),
        drop=_stacked([row.whole.drop.mean(dim=-1) for row in rows], n),
        drop_median=_stacked([medians(row.whole.drop) for row in rows], n),
        slope=_stacked([slopes(row.whole.drop) for row in rows], n),
        random_drop=_stacked([_random(row.whole).mean(dim=-1) for row in rows], n),
        profile=_stacked([_profile(row.whole.drop) for row in rows], n, PARTS),
        window_drop=_stacked([_of_windows(row, len(windows))[0] for row in rows], n, len(windows)),
        window_random=_stacked([_of_windows(row, len(windows))[1] for row in rows], n, len(windows)),
        first_token=torch.tensor([0, *(len(row.item.tokens) for row in rows)], dtype=torch.int64).cumsum(0),
        out_tokens=tuple(token for row in kept for token in row.item.tokens),
        token_log_prob=_joined([row.whole.log_prob for row in kept]),
        token_drop=_joined([row.whole.drop for row in kept], n),
        token_random=_joined([_random(row.whole) for row in kept], n),
        n_left_out=left_out,
        failures=asked.failures,
        level=level,
    )


def _random(found: Drops) -> Float[Tensor, "condition out_pos"]:
    return found.random_drop.mean(dim=1)


def _profile(drop: Float[Tensor, "cut out_pos"]) -> Float[Tensor, "cut part"]:
    edges = np.linspace(0.0, 1.0, PARTS + 1)
    return torch.from_numpy(np.stack([position_means(of_cut, edges) for of_cut in drop]))


def _of_windows(row: Row, n_windows: int) -> tuple[Float[Tensor, "cut window"], Float[Tensor, "cut window"]]:
    """Return the means over the response of what is lost with the instruction cut, and with other tokens."""
    if row.windows is None:
        nothing = torch.full((len(CUTS), n_windows), torch.nan, dtype=torch.float64)
        return nothing, nothing
    means = (values.mean(dim=-1) for values in (row.windows.drop, _random(row.windows)))
    own, other = (rearrange(values, "(cut window) -> cut window", cut=len(CUTS)) for values in means)
    return own, other


def _stacked(values: Sequence[Tensor], *shape: int) -> Float[Tensor, "row ..."]:
    return torch.stack(list(values)) if values else torch.zeros(0, *shape, dtype=torch.float64)


def _joined(values: Sequence[Tensor], *shape: int) -> Float[Tensor, "... token"]:
    return torch.cat([torch.zeros(*shape, 0, dtype=torch.float64), *values], dim=-1)
