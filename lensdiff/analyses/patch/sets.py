"""Heads that are patched all together, beside random sets of as many other heads: what claim 2 causes.

    effect    metric of U with V's z of every head of the set, at all positions - metric of U left alone
    beside    the same with as many heads that are not in the set, of the same layers as far as there are enough of
              them (`draws` seeded sets, each once); and with control models' z of the set in place of the tuned model's

One pass holds the whole set, so that heads act on one another as in the model: this is no sum of single effects.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.patch.defaults import DRAWS, MAX_BYTES, METRIC
from lensdiff.analyses.patch.metrics import name_of, targets_of
from lensdiff.analyses.patch.passes import Activations, Reader, Row, part_of, patched, read
from lensdiff.analyses.patch.set_choice import Head, random_sets
from lensdiff.analyses.patch.set_result import SetPatch, stacked
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, Point, view_of
from lensdiff.models.aligned_text import AlignedText, align_text
from lensdiff.models.asked import Asked, Given
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES


def patch_set(
    pair: ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: str | Response | Sequence[str | Response | None] | None = None,
    *,
    heads: Sequence[Head],
    draws: int = DRAWS,
    controls: Iterable[Model] = (),
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    max_bytes: int = MAX_BYTES,
    level: float = 0.95,
    progress: bool | None = None,
) -> SetPatch:
    """Return how far a set of heads moves a response when all of it is put into the other model, in both directions.

    Args:
        prompt, response, controls, max_new_tokens, prepend_bos, max_bytes, level, progress: as `patch_sweep`.
        heads: as (layer, head), each once.
        draws: random sets; at least 19 for a band.
        seed: of the draws.

    Raises:
        InputError: there is no head, one comes twice or is not there, fewer heads are left than the set has; of one
            prompt (or of all): as `patch_sweep`.
    """
    asked, view = Asked.of(prompt, response), view_of(pair.base)
    chosen = _checked(view, heads)
    if draws < 1:
        raise InputError(f"draws={draws} is not positive")
    sets = [chosen, *random_sets(chosen, view.n_layers, view.n_heads, draws=draws, seed=seed)]
    targets, texts = targets_of(pair, METRIC), {}

    def work(one: Prompt, said: Given) -> tuple[list[float], Tensor]:
        text = align_text(pair, one, said, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
        texts[one.id] = text
        models = {side: getattr(pair, side) for side in SIDES}
        acts = {side: _read(view_of(models[side]), text, side, targets, sets) for side in reversed(SIDES)}
        effects = [
            _effects(view_of(models[side]), text, side, targets, sets, acts[side], acts[other], max_bytes)
            for side, other in zip(SIDES, reversed(SIDES), strict=True)
        ]
        return [acts[side].score for side in SIDES], torch.stack(effects, dim=-1)

    found = asked.each(work, "patching", progress)
    asked.settle()
    made, of_controls = [], []
    for control in controls:
        own = view_of(control)
        was_made = own.is_made
        of_controls.append(torch.tensor([_of_control(pair, own, texts[name], targets, chosen) for name in found]))
        made.append(own.provenance("patch_set", {}))
        if not was_made:
            own.free()
    every = torch.stack([effects for _, effects in found.values()], dim=1)  # [set prompt side]
    options = {"metric": name_of(METRIC), "draws": draws, "max_new_tokens": max_new_tokens, "level": level}
    return SetPatch(
        pair.provenance("patch_set", options | {"prepend_bos": prepend_bos}, seed).beside(made),
        chosen,
        METRIC,
        tuple(found),
        torch.tensor([clean for clean, _ in found.values()], dtype=torch.float64),
        every[0].clone(),
        torch.tensor(sets[1:]),
        every[1:].clone(),
        stacked(of_controls, len(found)),
        asked.failures,
        level,
    )


def control_set(
    pair: ModelPair, control: Model, prompts: Sequence[Prompt], responses: Sequence[str | Response], of_pair: SetPatch
) -> SetPatch:
    """Return what a control's activations of the pair's set of heads do in the base, on the pair's prompts.

    Raises:
        InputError: as `patch_set`.
    """
    targets, view = targets_of(pair, METRIC), view_of(control)
    effects = [
        _of_control(pair, view, align_text(pair, p, r, max_new_tokens=1, prepend_bos=None), targets, of_pair.heads)
        for p, r in zip(prompts, responses, strict=True)
    ]
    effect = torch.full((len(prompts), 2), torch.nan, dtype=torch.float64)
    effect[:, 0] = torch.tensor(effects)
    n_prompts, k = len(prompts), len(of_pair.heads)
    return SetPatch(
        view.provenance("patch_set", {}),
        of_pair.heads,
        of_pair.metric,
        tuple(prompt.id for prompt in prompts),
        torch.full_like(effect, torch.nan),
        effect,
        torch.zeros(0, k, 2, dtype=torch.int64),
        torch.zeros(0, n_prompts, 2, dtype=torch.float64),
        torch.zeros(0, n_prompts, dtype=torch.float64),
        {},
        of_pair.level,
    )


def _checked(view: ModelView, heads: Sequence[Head]) -> tuple[Head, ...]:
    found = tuple((int(layer), int(head)) for layer, head in heads)
    wrong = [x for x in found if not (0 <= x[0] < view.n_layers and 0 <= x[1] < view.n_heads)]
    if not found or len(set(found)) < len(found) or wrong:
        raise InputError(
            f"heads={list(wrong or found)} given, expected (layer, head) with layers 0 to {view.n_layers - 1} and "
            f"heads 0 to {view.n_heads - 1}, each once"
        )
    return found


def _read(
    view: ModelView, text: AlignedText, side: str, targets: Mapping, sets: Sequence[Sequence[Head]]
) -> Activations:
    layers = dict.fromkeys(layer for heads in sets for layer, _ in heads)
    points = [Point(name, layer) for layer in layers for name in ("resid_pre", "z")]
    return read(Reader.of(view, text, side, targets[side]), points)


def _effects(
    view: ModelView,
    text: AlignedText,
    side: str,
    targets: Mapping,
    sets: Sequence[Sequence[Head]],
    own: Activations,
    donor: Activations,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, " set"]:
    places = torch.arange(text.n_read)
    rows: list[Row] = [
        tuple(part_of(Point("z", layer), head, places, own, donor) for layer, head in heads) for heads in sets
    ]
    return patched(Reader.of(view, text, side, targets[side]), own, rows, max_bytes=max_bytes)


def _of_control(
    pair: ModelPair, control: ModelView, text: AlignedText, targets: Mapping, heads: Sequence[Head]
) -> float:
    base = view_of(pair.base)
    own, donor = (_read(view, text, "base", targets, [heads]) for view in (base, control.whole()))
    return float(_effects(base, text, "base", targets, [heads], own, donor).item())
