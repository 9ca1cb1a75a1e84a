"""The direction in which an instruction moves the stream, in two models, and whether they share it.

With h(x) the stream at the last token of prompt x where it enters a layer (layer n_layers: what leaves the last one),
A prompts with an instruction, B the same without it (or any two sets):

    v                    mean h(A) - mean h(B)
    cosine               cos(v_base, v_tuned), in [-1, 1]; exactly 1 of equal models
    auroc_base           h . v_base tells held-out A from B in the base: P(a above b), ties half, in [0, 1]; 1/2: not
    auroc_tuned          the same of the tuned model
    auroc_base_in_tuned  v_base on the tuned model's streams; auroc_tuned_in_base the reverse
    permuted             the band of auroc_base and auroc_tuned with permuted labels (exchanged within pairs)

Held out by cross-validation over prompts: a prompt and itself without instruction are in one fold, and v is of the
other folds. On responses (tuned model's own, or given; both models read the same tokens), at one layer fixed
beforehand, from the last prompt token on:

    add       v added where the instruction is missing (B): log-probability with it - without, nats per token; positive:
              the direction does what the instruction would do
    project   v's direction taken out where the instruction is there (A): negative: the response needs it

v is again of the other folds. Beside: random vectors of the same length; beside cosine and AUROC, control models in
the tuned model's place.

- Length: prompts without their instruction are shorter; `length_auroc` says how well that alone tells them apart.
- Last token: where A and B end in other tokens, v may be these tokens' difference; `same_last` says for how many it is
  not. At layer 0 the stream is that token, so equal last tokens give v = 0, cosine 1 and AUROC 1/2 there (without
  position embeddings).
- An AUROC says that a direction is there to be read, not that the model uses it: that takes the effects.

Memory: [layer, text, d_model] in float64 of both models.

Reference: Du et al., COLM 2025 (directions across post-training); Arditi et al., NeurIPS 2024 (adding, projecting out).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.directions.defaults import DRAWS, FEWEST_PERMUTATIONS, FOLDS, PERMUTATIONS, READ_TOKENS
from lensdiff.analyses.directions.passes import Change, Ids, effects, last_streams, read_alike
from lensdiff.analyses.directions.result import CURVES, HOW, Directions
from lensdiff.analyses.directions.separation import (
    cosine,
    folds_of,
    held_out,
    labels_of,
    length_auroc,
    mean_difference,
    permuted_labels,
    random_directions,
)
from lensdiff.analyses.instruction_use.other_instructions import deleted
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.aligned_text import AlignedText, align_text
from lensdiff.models.asked import Asked
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError, Provenance
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_counts, check_seed
from lensdiff.stats.samples import check_level

FEWEST = 2  # texts of a set
Prompts = Prompt | str | Sequence[Prompt | str]
Texts = str | Response | Sequence[str | Response | None] | None


@dataclass(frozen=True, eq=False)
class Sets:
    """Both sets' texts as both models read them, A's first.

    Attributes:
        ids: of each text.
        n_a: how many are A's.
        folds: which one each text is in.
        paired: whether B's are A's without their instruction.
    """

    ids: list[Ids]
    n_a: int
    folds: Int[Tensor, " text"]
    paired: bool
    permuted: Tensor

    @classmethod
    def of(
        cls, a: Sequence[Ids], b: Sequence[Ids], *, paired: bool, folds: int, permutations: int, seed: int
    ) -> "Sets":
        """Return two sets of at least two texts.

        Raises:
            InputError: a set is too small.
        """
        if min(len(a), len(b)) < FEWEST:
            raise InputError(f"{len(a)} texts against {len(b)} were given, expected at least {FEWEST} of each")
        of_folds = folds_of(len(a), len(b), folds, paired=paired, seed=seed)
        permuted = permuted_labels(len(a), len(b), permutations, paired=paired, seed=seed)
        return cls([*a, *b], len(a), of_folds, paired, permuted)

    def streams(self, view: ModelView, side: str) -> Float[Tensor, "layer text d_model"]:
        return last_streams(view, [ids[side] for ids in self.ids])


def directions(
    pair: ModelPair,
    a: Prompts | None = None,
    b: Prompts | None = None,
    prompts: Prompts | None = None,
    *,
    response: Texts = None,
    controls: Iterable[Model] = (),
    folds: int = FOLDS,
    permutations: int = PERMUTATIONS,
    layer: int | None = None,
    draws: int = DRAWS,
    max_tokens: int = READ_TOKENS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    seed: int = 0,
    level: float = 0.95,
    progress: bool | None = None,
) -> Directions:
    """Return both models' directions by layer, whether they share them, and what they do to responses.

    Args:
        pair: both models, of `load_pair`.
        a, b: two sets of prompts; None for `prompts` with and without their instruction.
        prompts: with their instruction marked, and responses on which effects are measured; None with a and b for no
            effects. One that fails, as of a and b, is warned of and the rest go on.
        response: to the prompts, a list; None for the tuned model's own.
        controls: `pair.control(kind, seed)`, or models with the base's tokenizer; at least 19 of a kind for a band.
        folds: parts of the prompts, each held out once; as many as prompts where there are fewer.
        permutations: drawings of permuted labels, at least 19.
        layer: at whose entering stream vectors are added and projected out; None for half of the layers.
        draws: random vectors beside an effect; 19 for a band.
        max_tokens: of each response, the first ones.
        max_new_tokens: of the tuned model's own response.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the tuned model's chat template writes the prompts, for both models.
        seed: of folds, permutations and random vectors.
        level: of intervals and bands.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        InputError: one set without the other or neither a set nor prompts, too few texts, a layer that there is not, an
            option that is no count; of a prompt (or of all): it marks no instruction, nothing is left without it, the
            models read it as different tokens, or its response is empty.
    """
    check_pair(pair, "directions")
    check_controls(controls, "directions")
    check_counts(draws=draws, max_tokens=max_tokens, max_new_tokens=max_new_tokens)
    check_counts(permutations=permutations, least=FEWEST_PERMUTATIONS)
    check_counts(folds=folds, least=2)
    check_seed(seed)
    check_level(level)
    at = check_layer(pair, layer)
    if (a is None) != (b is None) or (a is None and prompts is None):
        raise InputError("expected both sets a and b, or prompts with their instruction marked")
    given = _Given(pair, prompts, response, max_tokens, max_new_tokens, prepend_bos, template)
    if prompts is not None:
        given.read(a is None, progress)
    how: dict[str, Any] = {"folds": folds, "permutations": permutations, "seed": seed}
    of_sets: dict[str, Asked] = {}
    if a is None or b is None:
        sets = Sets.of(*given.sets, paired=True, **how)
    else:
        of_sets = {name: Asked.of(texts, template=template, model=pair) for name, texts in (("a", a), ("b", b))}
        one, other = (_read(pair, asked, prepend_bos, progress) for asked in of_sets.values())
        sets = Sets.of(one, other, paired=False, **how)
    options = {"folds": folds, "permutations": permutations, "layer": at, "draws": draws, "max_tokens": max_tokens}
    options |= {"max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos, "level": level}
    streams = [sets.streams(view_of(getattr(pair, side)), side) for side in SIDES]
    measured = _effects(pair, given, sets, streams, at, draws, seed)
    failures = given.failures | {f"{name} {i}": said for name, x in of_sets.items() for i, said in x.failures.items()}
    found = _result(pair.provenance("directions", options, seed), sets, streams, at, measured, failures, level)
    doors = [*of_sets.values(), *([given.asked] if given.asked else [])]
    found = doors[0].stamped(found, *(prompt for door in doors for prompt in door.going()))
    beside = [_of_control(view_of(control), sets, streams[0], found) for control in controls]
    return found.with_controls(beside) if beside else found


def check_layer(pair: ModelPair, layer: int | None) -> int:
    """Return the layer at whose entering stream vectors are added, by default half of the layers.

    Raises:
        InputError: there is no such layer.
    """
    n_layers = view_of(pair.base).n_layers
    at = n_layers // 2 if layer is None else layer
    if type(at) is not int or not 0 <= at < n_layers:
        raise InputError(f"layer={layer!r} given, expected 0 to {n_layers - 1}")
    return at


def _read(pair: ModelPair, asked: Asked, prepend_bos: bool | None, progress: bool | None) -> list[Ids]:
    """Return what the texts of a set are read as; one that fails is warned of and left out."""
    found = asked.each(lambda prompt, _: read_alike(pair, prompt, prepend_bos), "reading texts", progress)
    asked.settle(stacklevel=4)
    return list(found.values())


def control_directions(pair: ModelPair, control: Model, prompts: Sequence[Prompt], of_pair: Directions) -> Directions:
    """Return a control's directions in the tuned model's place, on the prompts of the pair's result.

    Raises:
        InputError: as `directions`.
    """
    options = of_pair.provenance.options
    bos = options["prepend_bos"]
    both = [[read_alike(pair, one, bos) for one in (prompt, _without(prompt))] for prompt in prompts]
    how = {name: options[name] for name in ("folds", "permutations")}
    sets = Sets.of(*zip(*both, strict=True), paired=True, seed=of_pair.provenance.seed or 0, **how)
    return _of_control(view_of(control), sets, sets.streams(view_of(pair.base), "base"), of_pair)


def _without(prompt: Prompt) -> Prompt:
    found = deleted(prompt)
    if found is None:
        raise InputError(f"nothing is left of prompt {prompt.id or prompt.stripped[:40]!r} without its instruction")
    return found


class _Given:
    """The prompts of a call: with and without their instruction, and with their responses."""

    def __init__(
        self,
        pair: ModelPair,
        prompts: Any,
        response: Any,
        max_tokens: int,
        new: int,
        bos: bool | None,
        template: Template,
    ):
        self.pair, self.max_tokens, self.how = pair, max_tokens, {"max_new_tokens": new, "prepend_bos": bos}
        self.asked = None if prompts is None else Asked.of(prompts, response, template=template, model=pair)
        self.texts: dict[str, tuple[AlignedText, AlignedText]] = {}
        self.ids: dict[str, tuple[Ids, Ids]] = {}

    def read(self, as_sets: bool, progress: bool | None) -> None:
        """Read the prompts; each needs an instruction, which is what is added or taken out.

        Raises:
            InputError: all failed, with the reason of the first.
        """
        assert self.asked is not None

        def of_one(prompt: Prompt, response: Any) -> tuple[AlignedText, AlignedText]:
            bare = _without(prompt)
            if as_sets:
                both = [read_alike(self.pair, one, self.how["prepend_bos"]) for one in (prompt, bare)]
                self.ids[prompt.id] = both[0], both[1]
            text = align_text(self.pair, prompt, response, **self.how)
            return text, align_text(self.pair, bare, text.response, **self.how)

        self.texts = self.asked.each(of_one, "reading prompts", progress)
        self.asked.settle(stacklevel=4)

    @property
    def sets(self) -> tuple[list[Ids], list[Ids]]:
        """What the texts with, and those without the instruction are read as."""
        return [self.ids[name][0] for name in self.texts], [self.ids[name][1] for name in self.texts]

    @property
    def failures(self) -> dict[str, str]:
        return {} if self.asked is None else self.asked.failures


Measured = tuple[tuple[str, ...], Tensor, Tensor]


def _effects(
    pair: ModelPair, given: _Given, sets: Sets, streams: Sequence[Tensor], layer: int, draws: int, seed: int
) -> Measured:
    """Return the prompts, each change's effect on each, and the mean effects of random vectors."""
    d_model = streams[0].shape[-1]
    is_a, random = labels_of(sets.n_a, len(sets.ids) - sets.n_a), random_directions(draws, d_model, seed)
    own = torch.zeros(2, 2, len(HOW), len(given.texts), dtype=torch.float64)
    beside = torch.zeros(2, 2, len(HOW), draws if given.texts else 0, dtype=torch.float64)
    for i, side in enumerate(SIDES):
        view = view_of(getattr(pair, side))
        for place, texts in enumerate(given.texts.values()):
            chosen = sets.folds != sets.folds[place] if sets.paired else torch.ones_like(is_a)
            vectors = [mean_difference(part[layer], is_a, chosen) for part in streams]
            for k, (how, text) in enumerate(zip(HOW, reversed(texts), strict=True)):  # added to the text without
                n = min(text.n_out, given.max_tokens)
                # projecting out does not see a vector's length
                drawn = [v.norm() * random for v in vectors] if how == "add" else [random]
                changes = [Change(how, v) for v in (*vectors, *(row for rows in drawn for row in rows))]
                found = effects(view, text.ids[side][: text.first + n], text.said[side][:n], text.first, layer, changes)
                own[i, :, k, place] = found[:2]
                beside[i, :, k] += found[2:].reshape(len(drawn), draws) / len(given.texts)
    return tuple(given.texts), own, beside


def _of_control(control: ModelView, sets: Sets, base: Tensor, of_pair: Directions) -> Directions:
    """Return what a control has, which reads what the base reads; a whole model that is made for it is let go."""
    if control.d_model != base.shape[-1]:
        raise InputError(f"control {control.info.id} has d_model {control.d_model}, expected {base.shape[-1]}")
    was_made = control.is_made
    streams = [base, sets.streams(control, "base")]
    provenance = control.provenance("directions", {})
    if not was_made:
        control.free()
    nothing = torch.zeros(2, 2, len(HOW), 0, dtype=torch.float64)
    return _result(provenance, sets, streams, of_pair.layer, ((), nothing, nothing), {}, of_pair.level)


def _result(
    provenance: Provenance,
    sets: Sets,
    streams: Sequence[Tensor],
    layer: int,
    measured: Measured,
    failures: dict[str, str],
    level: float,
) -> Directions:
    n_a, n_b = sets.n_a, len(sets.ids) - sets.n_a
    is_a = labels_of(n_a, n_b)
    vectors = torch.stack([torch.stack([mean_difference(one, is_a) for one in part]) for part in streams])
    rows: dict[str, list[float]] = {name: [] for name in ("auroc_base", *CURVES, "permuted_low", "permuted_high")}
    for i, (x, y) in enumerate(zip(*streams, strict=True)):
        both = [held_out(one, one, torch.cat([is_a[None], sets.permuted]), sets.folds) for one in (x, y)]
        bands = [stats.rank_band(values[1:], level=level) for values in both]
        values = {"auroc_base": both[0][0], "auroc_tuned": both[1][0], "cosine": cosine(vectors[0, i], vectors[1, i])}
        values["auroc_base_in_tuned"] = held_out(x, y, is_a[None], sets.folds)[0]
        values["auroc_tuned_in_base"] = held_out(y, x, is_a[None], sets.folds)[0]
        values["permuted_low"] = max(0.0, min(float(band.low) for band in bands))
        values["permuted_high"] = min(1.0, max(float(band.high) for band in bands))
        for name, value in values.items():
            rows[name].append(float(value))
    arrays = {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}
    last = [ids["base"][-1] for ids in sets.ids]
    prompt_id, own, beside = measured
    return Directions(
        provenance,
        n_a,
        n_b,
        len(sets.folds.unique()),
        sets.paired,
        length_auroc([len(ids["base"]) for ids in sets.ids], n_a),
        sum(token in last[n_a:] for token in last[:n_a]) / n_a,
        vectors,
        **{name: values[None] if name in CURVES else values for name, values in arrays.items()},
        layer=layer,
        prompt_id=prompt_id,
        effect=own,
        random_effect=beside,
        failures=failures,
        level=level,
    )
