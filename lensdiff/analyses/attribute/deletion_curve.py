"""Deletion and insertion curves: what a response loses as the prompt's tokens go, the most important ones first.

The tokens are ordered by a map's importance density, or by numbers that are given; those of the two models of a pair by
either's density and by the difference of the two, tuned - base, so that the last says which tokens only the tuned model
needs: with them gone, log p_tuned - log p_base falls further than along random orders. Both models read the same forced
text. `removal` says what it means to remove a token, `curves` what is drawn and summed.

A map that names nothing particular has the area of random orders. Tokens whose density is 0 keep the order in which
they stand. What is removed early changes what is left: no token's step is its effect alone.

Cost: at most (2 orders + draws) (points - 1) texts a model and prompt, read in batches, beside the attribution itself.
Reference: Petsiuk et al., BMVC 2018 (insertion and deletion); the two models' are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.curves import DeletionCurve
from lensdiff.analyses.attribute.defaults import (
    BASELINE,
    CURVE_DRAWS,
    CURVE_POINTS,
    METHOD,
    NODES,
    PATH,
    TARGET,
)
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.attribute.removal import Levels, Order, grid_of, levels_of, order_of, random_orders
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import shorten
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.aligned_text import check_positions
from lensdiff.models.asked import Asked
from lensdiff.models.forced_text import force_base, force_tuned
from lensdiff.models.given import is_pair, one_model
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, Encoded, encode, generate
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_count, check_counts, check_seed
from lensdiff.stats.samples import check_level

FEWEST_POINTS = 2


class Text(NamedTuple):
    """A prompt with its response as one model reads them, and the model's map where one was asked for."""

    encoded: Encoded
    density: Float[Tensor, " in_pos"] | None


def deletion_curve(
    model: Model | ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: str | Response | Sequence[str | Response | None] | None = None,
    *,
    order: Any = None,
    points: int = CURVE_POINTS,
    draws: int = CURVE_DRAWS,
    seed: int = 0,
    target: Any = TARGET,
    path: Any = PATH,
    baseline: str = BASELINE,
    nodes: int = NODES,
    method: Any = METHOD,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    level: float = 0.95,
    progress: bool | None = None,
) -> DeletionCurve:
    """Return what a response loses as prompt tokens are removed, and gains as they are put in, beside random orders.

    Args:
        model: one model, or a pair, of which both read the same tokens.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on).
        response: a text, joined to the prompt as prompt + " " + response, a `Response`, or None for the model's own
            greedy one (of a pair the tuned model's). With a list of prompts, a list.
        order: what tokens are ordered by, the largest first: an `Attribution` (its density), or a number for each
            prompt token; for a list of prompts a list of as many. By default the density of the model's own map.
        points: of a curve, from no token to all, evenly.
        draws: random orders; at least 19 for a band, 0 for none.
        seed: of these, which are the same for both models of a prompt.
        target, path, baseline, nodes, method: of the map, as `attribute`.
        max_new_tokens: of the own response.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the chat template (of a pair the tuned model's, for both) writes the prompts.
        level: of the bands.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: an option that does not exist or is out of range; of one prompt (or of all in a list): its order is
            not a finite number for each prompt token, the response is empty, nothing can be removed, the models read
            the text as different tokens, or the map cannot be had (see `attribute`).
    """
    if not is_pair(model):
        one_model(model, "deletion_curve", or_pair=True)
    asked = Asked.of(prompt, response, template=template, model=model)
    check_counts(max_new_tokens=max_new_tokens)
    check_count("points", points, least=FEWEST_POINTS)
    check_count("draws", draws, least=0)
    check_seed(seed)
    check_level(level)
    given = _given(asked, order)
    how = {"target": target, "path": path, "baseline": baseline, "nodes": nodes, "method": method}
    options: dict[str, Any] = {"points": points, "draws": draws, "max_new_tokens": max_new_tokens}
    options |= {"prepend_bos": prepend_bos, "level": level}
    reading = _Reading(asked, given, how, points, draws, seed, max_new_tokens, prepend_bos)
    named = how | {"target": target if isinstance(target, str) else getattr(target, "__name__", "custom")}
    if order is None:
        options |= named
    with asked.bar("removing tokens", progress, len(asked.prompts)) as advance:
        if isinstance(model, ModelPair):
            found = reading.of_pair(model, advance)
            provenance = model.provenance("deletion_curve", options, seed)
        else:
            found = reading.of_model(view_of(model), advance)
            provenance = view_of(model).provenance("deletion_curve", options, seed)
    asked.settle()
    models = SIDES if isinstance(model, ModelPair) else (view_of(model).info.id,)
    orders = ("given",) if order is not None else ("density",) if models != SIDES else (*SIDES, "difference")
    return asked.stamped(_result(provenance, models, orders, found, asked, level))


class _Found(NamedTuple):
    grid: tuple[int, ...]
    n_in: int
    levels: list[Levels]  # by model


class _Reading(NamedTuple):
    """One call: the prompts, and what is asked of them."""

    asked: Asked
    given: Mapping[str, Tensor]
    how: Mapping[str, Any]
    points: int
    draws: int
    seed: int
    max_new_tokens: int
    prepend_bos: bool | None

    def of_model(self, view: ModelView, advance: Any) -> dict[str, _Found]:
        found = {}
        for prompt, said in zip(self.asked.prompts, self.asked.responses, strict=True):
            with self.asked.guard(prompt):
                said = said if said is not None else self._own(view, prompt)
                encoded = encode(view, prompt, said, prepend_bos=self.prepend_bos)
                text = Text(encoded, self._density(view, prompt, said))
                grid, orders = self._orders(prompt, [text])
                levels = levels_of(view, encoded, orders, self._drawn(prompt, encoded), grid)
                found[prompt.id] = _Found(grid, encoded.n_prompt, [levels])
            advance(1)
        return found

    def of_pair(self, pair: ModelPair, advance: Any) -> dict[str, _Found]:
        """Return the curves of both models; each is asked for as seldom as can be, since a pair may keep one."""
        view, forced, texts = view_of(pair.tuned), {}, {}
        for prompt, said in zip(self.asked.prompts, self.asked.responses, strict=True):
            if prompt.id in self.asked.errors:
                continue
            with self.asked.guard(prompt):
                said = said if said is not None else self._own(view, prompt)
                own = force_tuned(pair, view, prompt, said, prepend_bos=self.prepend_bos)
                read = Response(own.response, own.tuned.response_ids, pair.ids[1], pair.digests[1])
                forced[prompt.id] = own, Text(own.tuned, self._density(view, prompt, read))
        view, found = view_of(pair.base), {}
        for prompt in self.asked.going():
            with self.asked.guard(prompt):
                own, tuned = forced[prompt.id]
                encoded = force_base(pair, view, own, prepend_bos=self.prepend_bos)
                check_positions(own, encoded)
                read = Response(own.response, encoded.response_ids, pair.ids[0], pair.digests[0])
                base = Text(encoded, self._density(view, prompt, read))
                texts[prompt.id] = self._orders(prompt, [base, tuned])
                grid, orders = texts[prompt.id]
                levels = levels_of(view, encoded, orders, self._drawn(prompt, encoded), grid)
                found[prompt.id] = _Found(grid, encoded.n_prompt, [levels])
        view = view_of(pair.tuned)
        for prompt in self.asked.going():
            with self.asked.guard(prompt):
                encoded, (grid, orders) = forced[prompt.id][1].encoded, texts[prompt.id]
                found[prompt.id].levels.append(levels_of(view, encoded, orders, self._drawn(prompt, encoded), grid))
            advance(1)
        return found

    def _own(self, view: ModelView, prompt: Prompt) -> Response:
        return generate(view, prompt, max_new_tokens=self.max_new_tokens, prepend_bos=self.prepend_bos)

    def _density(self, view: ModelView, prompt: Prompt, said: str | Response) -> Tensor | None:
        if self.given:
            return None
        found = attribute(view, prompt, said, deletion_draws=0, prepend_bos=self.prepend_bos, **self.how)  # type: ignore[call-overload]
        return found.density()

    def _orders(self, prompt: Prompt, texts: Sequence[Text]) -> tuple[tuple[int, ...], list[Order]]:
        """Return the grid and the orders of a prompt, from the maps of one model or of both.

        Raises:
            InputError: the numbers that are given are not as many as the tokens, or nothing can be removed.
        """
        name, n = repr(prompt.id or prompt.stripped[:40]), texts[0].encoded.n_prompt
        grid = grid_of(texts[0].encoded, self.points, name)
        if self.given:
            weights = self.given[prompt.id]
            if len(weights) != n:
                raise InputError(
                    f"the order of prompt {name} has {len(weights)} numbers, expected {n}, one for each prompt token"
                )
            return grid, [order_of(weights)]
        own = [text.density for text in texts if text.density is not None]
        return grid, [order_of(one) for one in ([*own, own[1] - own[0]] if len(own) > 1 else own)]

    def _drawn(self, prompt: Prompt, encoded: Encoded) -> list[Order]:
        return random_orders(encoded.n_prompt, draws=self.draws, seed=f"{self.seed} {prompt.stripped}")


def _given(asked: Asked, order: Any) -> dict[str, Tensor]:
    """Return by prompt the numbers that are given; none where there are none.

    Raises:
        InputError: they are not numbers, or not as many lists as prompts.
    """
    if order is None:
        return {}
    every = [order] if asked.single else order
    if isinstance(every, Attribution) or not isinstance(every, Sequence) or len(every) != len(asked.prompts):
        raise InputError(f"{len(asked.prompts)} prompts were given with the order {shorten(order)}, expected one each")
    return {prompt.id: _weights(one) for prompt, one in zip(asked.prompts, every, strict=True)}


def _weights(order: Any) -> Float[Tensor, " in_pos"]:
    if isinstance(order, Attribution):
        return order.density()
    numbers = list(order) if isinstance(order, Sequence | Tensor) and not isinstance(order, str) else [order]
    try:
        found = torch.tensor([float(one) for one in numbers], dtype=torch.float64)
    except (TypeError, ValueError):
        found = torch.tensor([torch.nan])
    if not bool(found.isfinite().all()):
        raise InputError(f"order={shorten(order)} given, expected an Attribution or a finite number per prompt token")
    return found


def _result(
    provenance: Any,
    models: tuple[str, ...],
    orders: tuple[str, ...],
    found: Mapping[str, _Found],
    asked: Asked,
    level: float,
) -> DeletionCurve:
    kept = [found[prompt.id] for prompt in asked.going()]

    def stacked(name: str) -> Tensor:
        return torch.stack([torch.stack([getattr(one, name) for one in own.levels], dim=1) for own in kept])

    return DeletionCurve(
        provenance,
        models,
        orders,
        tuple(prompt.id for prompt in asked.going()),
        torch.tensor([one.n_in for one in kept]),
        torch.tensor([one.grid for one in kept]),
        stacked("deleted"),
        stacked("inserted"),
        stacked("random_deleted"),
        asked.failures,
        level,
    )
