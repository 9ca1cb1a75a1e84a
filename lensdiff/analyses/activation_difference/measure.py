"""The activation difference lens: what tuning adds to the residual stream whatever the text, and what that says.

With h the stream that enters a layer (n_layers: what leaves the last), at each of the first positions of n texts that
have nothing to do with the tuning, each position apart:

    d = (1/n) sum over texts of (h_t - h_b)             constant share = |d| / ((1/n) sum of |h_t - h_b|)   in [0, 1]

Near 1 tuning moved the stream in one direction whatever it reads; n changes that have nothing in common give about
n^-1/2. Positions count from a text's first own token: a BOS in front is read, but is the same in every text, and its
share would be 1 by itself. A first token that many texts share raises the share of position 0 in the same way.

`read` gives the words that d, and -d, speak for (see `words`). A direction of the stream always speaks for some words,
so beside them stand those of the same d under the base's head, of the tuned model's own mean (what the stream holds
without any tuning), and of each control's d under its own head. Three interventions say whether d does anything:

    patchscope   d at the last token of prompts that repeat, over all scales (`patchscope`)
    steer        s d added at all positions (`steering`)
    causal       the component along d set to the other model's, change in cross-entropy (`causal`)

They take the pair again: a result holds arrays alone. Both models read the same tokens; a text that they read as
different ones is left out. Memory: sums by layer and position, the streams of a few texts, and the mean d of each
control. Cost: two passes over n short texts, per control again.

Reference: Minder et al., ICLR 2026, arXiv 2510.13900 (difference, lens, patchscope, steering, replaced component; there
an agent picks scales, here none is picked).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.activation_difference.control import ControlDifference
from lensdiff.analyses.activation_difference.defaults import POSITIONS, WORDS
from lensdiff.analyses.activation_difference.directions import READINGS
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.analyses.activation_difference.starts import Start, starts_of
from lensdiff.analyses.activation_difference.sums import Means, differences
from lensdiff.analyses.activation_difference.words import Readings, indexed, read_words
from lensdiff.inputs.texts import Texts, texts_of
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.layers import chosen_indices
from lensdiff.models.pair import ModelPair
from lensdiff.models.text import token_strings
from lensdiff.results import InputError
from lensdiff.results.numbers import check_count
from lensdiff.stats.samples import check_level


def activation_difference(
    pair: ModelPair,
    texts: Texts = None,
    *,
    layers: Sequence[int] | None = None,
    positions: int = POSITIONS,
    max_texts: int | None = None,
    controls: Iterable[Model | ControlDifference] = (),
    prepend_bos: bool | None = None,
    level: float = 0.95,
) -> ActivationDifference:
    """Return what the streams of two models differ by whatever the text, beside the same of controls.

    Args:
        pair: both models, of `load_pair`.
        texts: that have nothing to do with the tuning: a list, the path of a file of plain text (a passage a line), or
            None for those that ship, 512 example sentences of WordNet.
        layers: whose entering stream is read, from 0; n_layers is what leaves the last. None for all.
        positions: first tokens of a text.
        max_texts: only the first; None for all.
        controls: `pair.control(kind, seed)`, models of the base's shape and vocabulary, or results of
            `control_difference`; a generator is read one at a time. At least 19 of a kind for a band.
        prepend_bos: None for each checkpoint's own habit.
        level: of bands, and of the interval of `causal`.

    Raises:
        InputError: the pair keeps one model, texts that are not what is expected or of which fewer than two can be
            read, a layer that there is not, a count that is none, a control of another shape, or a model whose stream
            cannot be read, or written behind its last layer.
    """
    check_pair(pair, "activation_difference")
    check_controls(controls, "activation_difference")
    chosen, starts = _asked(pair, texts, layers, positions, max_texts, prepend_bos)
    views = view_of(pair.base), view_of(pair.tuned)
    check_level(level)
    means = differences(*views, starts, chosen, positions, side=1)
    options = {"layers": list(chosen), "positions": positions, "texts": _named(texts), "max_texts": max_texts}
    read = [
        _words(view, vectors, means)
        for view, vectors in ((views[1], means.difference), (views[0], means.difference), (views[1], means.tuned))
    ]
    k = min(len(ids[0, 0, 0]) for _, ids, _ in read)
    names, places = indexed([word for words, _, _ in read for word in words])
    shape = [ids.shape for _, ids, _ in read]
    found = [part.reshape(s)[..., :k] for part, s in zip(places.split([s.numel() for s in shape]), shape, strict=True)]
    alone = ActivationDifference(
        pair.provenance("activation_difference", options | {"prepend_bos": prepend_bos, "level": level}),
        views[0].n_layers,
        chosen,
        len(starts),
        means.n,
        means.difference,
        means.size,
        means.tuned,
        means.lengths,
        READINGS,
        names,
        torch.stack(found),
        torch.stack([ids[..., :k] for _, ids, _ in read]),
        torch.stack([logits[..., :k] for _, _, logits in read]),
        torch.zeros(0, *means.difference.shape, dtype=means.difference.dtype),
        torch.zeros(0, *means.size.shape, dtype=torch.float64),
        level,
    )
    return alone.with_controls(
        one if isinstance(one, ControlDifference) else _control(views[0], view_of(one), starts, chosen, positions)
        for one in controls
    )


def control_difference(
    pair: ModelPair,
    control: Model,
    texts: Texts = None,
    *,
    layers: Sequence[int] | None = None,
    positions: int = POSITIONS,
    max_texts: int | None = None,
    prepend_bos: bool | None = None,
) -> ControlDifference:
    """Return what a control's stream differs from the base's by, on the texts that the pair is read on.

    Raises:
        InputError: as `activation_difference`.
    """
    chosen, starts = _asked(pair, texts, layers, positions, max_texts, prepend_bos)
    return _control(view_of(pair.base), view_of(control), starts, chosen, positions)


def _asked(
    pair: ModelPair,
    texts: Texts,
    layers: Sequence[int] | None,
    positions: int,
    max_texts: int | None,
    prepend_bos: bool | None,
) -> tuple[tuple[int, ...], list[Start]]:
    """Return the layers that are read, and the texts as both models read them."""
    if pair.keep == "one":
        raise InputError('activation_difference reads both models at once: load the pair with keep="both"')
    check_count("positions", positions)
    if max_texts is not None:
        check_count("max_texts", max_texts, least=2)
    chosen = chosen_indices(layers, range(view_of(pair.base).n_layers + 1), "layers")
    return chosen, starts_of(pair, texts_of(texts)[:max_texts], positions, prepend_bos)


def _named(texts: Texts) -> Any:
    """Return what the provenance says of the texts."""
    if texts is None:
        return "default"
    return f"{len(texts)} given" if isinstance(texts, Sequence) and not isinstance(texts, str) else str(texts)


def _control(
    base: ModelView, control: ModelView, starts: Sequence[Start], layers: tuple[int, ...], positions: int
) -> ControlDifference:
    for name in ("n_layers", "d_model", "d_vocab"):
        mine, theirs = getattr(base, name), getattr(control, name)
        if mine != theirs:
            raise InputError(f"control {control.info.id} has {name} {theirs}, expected the base's {mine}")
    means = differences(base, control, starts, layers, positions, side=0)
    words, ids, logits = _words(control, means.difference, means)
    names, places = indexed(words)
    provenance = control.provenance("control_difference", {"layers": list(layers), "positions": positions})
    return ControlDifference(
        provenance, layers, means.n, means.difference, means.size, names, places.reshape(ids.shape), ids, logits
    )


def _words(
    view: ModelView, directions: Float[Tensor, "layer position d_model"], means: Means
) -> tuple[tuple[str, ...], Int[Tensor, "sign layer position k"], Float[Tensor, "sign layer position k"]]:
    """Return the words of directions at the length of the model's own stream, their ids and logits."""
    found: Readings = read_words(view, directions, means.lengths[1], WORDS)
    return token_strings(view, tuple(found.ids.flatten().tolist())), found.ids, found.logits
