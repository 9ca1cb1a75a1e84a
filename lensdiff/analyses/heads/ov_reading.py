"""Which words a head writes when it reads a word: the leading directions of W_OV in vocabulary.

    W_OV = diag(gain) W_V W_O = sum over r of s_r u_r v_r^T         singular values s_r, largest first
    read   score of word w for u_r:  u_r . E_w / |E_w|               E_w = mean of its sub-token input embeddings
    write  score of word w for v_r:  v_r . U'_w / |U'_w|             U'_w = final norm's gain * mean output embedding
    share  s_r^2 / sum of s^2: the part of the head's W_OV that a component holds

A component has two poles. A word at the plus pole of the read side (u . E > 0) writes what stands at the plus pole of
the write side and suppresses what stands at the minus pole; a word at the minus pole does the opposite. Which pole is
called plus is arbitrary; here it is the one that holds the word with the largest |read score|.

Read: weights alone, the direct path from the head to the logits. Ignored: biases, LayerNorm's centring, the scale of
the norms, gains of norms after the attention (Gemma 2, OLMo 2), and everything that later layers do. W_OV itself is a
property of the model; when components have near-equal singular values, they mix freely between two models.

Memory: word embeddings (twice), and scores of [heads * components, words] for a layer.

Reference: Elhage et al., A Mathematical Framework for Transformer Circuits, 2021 (W_OV); Millidge and Black, The
singular value decompositions of transformer weight matrices are highly interpretable, 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lensdiff.analyses.heads.head_weights import scaled
from lensdiff.analyses.heads.word_pairs import unit_vectors
from lensdiff.models import Model, ModelView
from lensdiff.models.given import one_model
from lensdiff.models.layers import chosen_indices
from lensdiff.models.progress import tracked
from lensdiff.models.words import WordList, listed, word_embeddings, word_tokens
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import check_counts
from lensdiff.results.tidy import tidy

OV_SIDES = ("read", "write")
COMPONENTS = 3  # per head
POLES = (1, -1)
SHOWN = 3  # words of a side in `top`


class Directions(NamedTuple):
    """The leading components of each head's W_OV, orthonormal within a head, and all its singular values."""

    read: Float[Tensor, "head_index component d_model"]
    write: Float[Tensor, "head_index component d_model"]
    singular_values: Float[Tensor, "head_index d_head"]


def ov_directions(
    W_V: Float[Tensor, "head_index d_model d_head"], W_O: Float[Tensor, "head_index d_head d_model"], *, k: int
) -> Directions:
    """Return the k leading singular directions of W_V W_O, without forming that product of d_model x d_model."""
    left, small_left = torch.linalg.qr(W_V)
    right, small_right = torch.linalg.qr(W_O.mT)
    u, values, vh = torch.linalg.svd(small_left @ small_right.mT)
    read = einsum(left, u[..., :k], "head d_model dim, head dim component -> head component d_model")
    write = einsum(right, vh[..., :k, :], "head d_model dim, head component dim -> head component d_model")
    return Directions(read, write, values)


@dataclass(frozen=True, eq=False)
class OVReading(Result):
    """The words of each head's leading OV components; see the module.

    Attributes:
        layers, heads: which ones were read, counted from 0.
        words: the word list, without the words that map to no token.
        singular_values, share: of each component.
        word_index, score: the words with the most extreme scores, best first; axis `side` as `OV_SIDES`, axis `pole` as
            `POLES`.
    """

    layer_by_layer: ClassVar[bool] = True

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    words: tuple[str, ...]
    singular_values: Float[Tensor, "layer head_index component"]
    share: Float[Tensor, "layer head_index component"]
    word_index: Int[Tensor, "layer head_index component side pole rank"]
    score: Float[Tensor, "layer head_index component side pole rank"]

    def told(self) -> list[str]:
        """Return what the component reads and writes that holds most of its head's W_OV."""
        first: Any = next(iter(self.top(1).itertuples()), None)
        if first is None:
            return []
        where = f"layer {first.layer}, head {first.head_index}, component {first.component} ({first.share:.0%})"
        return [f"{where} reads {first.reads}; writes {first.writes}"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per word.

        Columns: layer, head_index, component, singular_value, share, side (read, write), pole (1, -1), rank, word,
        score.
        """
        n_components, n_words = self.word_index.shape[2], self.word_index.shape[-1]
        axes = {"layer": self.layers, "head_index": self.heads, "component": range(n_components), "side": OV_SIDES}
        columns = {
            "singular_value": self.singular_values[..., None, None, None],
            "share": self.share[..., None, None, None],
            "word": np.array(self.words, dtype=object)[self.word_index.numpy()],
            "score": self.score,
        }
        frame = tidy(axes | {"pole": POLES, "rank": range(1, n_words + 1)}, columns)
        for place, name in ((3, "singular_value"), (4, "share")):
            frame.insert(place, name, frame.pop(name))
        return frame

    def words_of(self, layer: int, head_index: int, component: int, side: str, pole: int) -> tuple[str, ...]:
        """Return the words of one pole of one side of a component, best first.

        Args:
            layer, head_index, component: which, counted from 0.
            side: "read" or "write".
            pole: 1 or -1.

        Raises:
            InputError: there is no such layer, head, component, side or pole.
        """
        places = []
        asked: list[tuple[str, Any, Sequence[Any]]] = [
            ("layer", layer, self.layers),
            ("head", head_index, self.heads),
            ("component", component, range(self.share.shape[2])),
            ("side", side, OV_SIDES),
            ("pole", pole, POLES),
        ]
        for what, wanted, available in asked:
            if wanted not in available:
                raise InputError(f"{what} {wanted!r} was not read, available: {', '.join(map(str, available))}")
            places.append(list(available).index(wanted))
        return tuple(self.words[i] for i in self.word_index[tuple(places)].tolist())

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k components that hold most of their head's W_OV: the first words they read and write.

        Those of the plus pole; `words_of` and `to_df` have all of both.
        """
        best = self.share.flatten().topk(min(k, self.share.numel())).indices
        layer, head, component = (x.tolist() for x in torch.unravel_index(best, self.share.shape))
        rows = []
        for i, j, c in zip(layer, head, component, strict=True):
            place = self.layers[i], self.heads[j], c
            words = [", ".join(self.words_of(*place, side, POLES[0])[:SHOWN]) for side in OV_SIDES]
            rows.append((*place, float(self.share[i, j, c]), *words))
        columns = ["layer", "head_index", "component", "share", "reads", "writes"]
        return pd.DataFrame(rows, columns=columns)


def ov_reading(
    model: Model,
    vocabulary: WordList | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    components: int = COMPONENTS,
    top_words: int = 10,
) -> OVReading:
    """Return the words that the leading components of each head's W_OV read and write, in float32; see the module.

    Args:
        model: one model; for a pair `pair.compare(ov_reading, ...)`.
        vocabulary: the word list, None for the shipped one; words that map to no token are left out.
        layers, heads: which to read, counted from 0; None for all.
        components: per head, at most d_head.
        top_words: per pole of either side.

    Raises:
        InputError: a number is out of range, or no word maps to a token.
    """
    view = one_model(model, "ov_reading")
    check_counts(components=components, top_words=top_words)
    chosen = (
        chosen_indices(layers, range(view.n_layers), "layers"),
        chosen_indices(heads, range(view.n_heads), "heads"),
    )
    vocabulary = listed(vocabulary)
    tokens = word_tokens(view, vocabulary)
    components, top_words = min(components, view.d_head), min(top_words, len(tokens.words))
    gain = view.weights.gain("final")
    written = word_embeddings(view.weights.W_U.T, tokens)
    sides = (
        unit_vectors(word_embeddings(view.weights.W_E, tokens)),
        unit_vectors(written if gain is None else written * gain.float()),
    )
    parts = [
        _layer(view, layer, list(chosen[1]), sides, components, top_words)
        for layer in tracked(chosen[0], f"reading heads of {view.info.id}")
    ]
    options = {
        "layers": list(chosen[0]),
        "heads": list(chosen[1]),
        "components": components,
        "top_words": top_words,
        "vocabulary": getattr(vocabulary, "source", "given words"),
        "words_without_token": len(tokens.excluded),
    }
    values, share, index, score = (torch.stack(part).cpu() for part in zip(*parts, strict=True))
    return OVReading(view.provenance("ov_reading", options), *chosen, tokens.words, values, share, index, score)


def _layer(
    view: ModelView, layer: int, heads: list[int], sides: tuple[Tensor, Tensor], components: int, top_words: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    W_V, W_O = scaled(view, layer, "W_V"), view.weights.needed_matrix(layer, "W_O")
    group = torch.tensor(heads, device=W_V.device) // (len(W_O) // len(W_V))
    found = ov_directions(W_V[group], W_O[heads].float(), k=components)
    energy = found.singular_values.square()
    share = energy / energy.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    directions = torch.stack([found.read, found.write])
    scores = torch.stack(
        [rearrange(d, "h c m -> (h c) m") @ words.T for d, words in zip(directions, sides, strict=True)]
    )
    furthest = scores[0].gather(1, scores[0].abs().argmax(dim=1, keepdim=True))
    scores = scores * torch.where(furthest < 0, -1.0, 1.0)  # the plus pole holds the largest |read score|
    plus, minus = scores.topk(top_words, dim=-1), (-scores).topk(top_words, dim=-1)
    shape = "pole side (h c) rank -> h c side pole rank"
    index, score = (
        rearrange(torch.stack(x), shape, c=components)
        for x in ((plus.indices, minus.indices), (plus.values, -minus.values))
    )
    return found.singular_values[:, :components], share[:, :components], index.int(), score


def ov_changes(base: OVReading, tuned: OVReading) -> pd.DataFrame:
    """Return what each component of the base became: a row per layer, head and component.

    Components of a head are matched so that they share the most words, poles swapped where that shares more. Columns:
    layer, head_index, component, tuned_component, shared (part of the listed words that both have, in [0, 1]), gained
    and lost (words, by side and pole, "read+ word").

    Raises:
        InputError: the readings have other layers, heads, words, or another number of components or words per pole.
    """
    for what in ("layers", "heads", "words"):
        if getattr(base, what) != getattr(tuned, what):
            raise InputError(f"base and tuned were read with other {what}: expected readings with the same arguments")
    if base.word_index.shape != tuned.word_index.shape:
        shapes = " and ".join(str(tuple(x.word_index.shape[2:])) for x in (base, tuned))
        raise InputError(f"base and tuned hold components of shapes {shapes}: expected the same")
    rows = []
    for i, layer in enumerate(base.layers):
        for j, head in enumerate(base.heads):
            rows += [(layer, head, *row) for row in _matched_components(base, tuned, i, j)]
    columns = ["layer", "head_index", "component", "tuned_component", "shared", "gained", "lost"]
    return pd.DataFrame(rows, columns=columns)


def _matched_components(base: OVReading, tuned: OVReading, i: int, j: int) -> list[tuple[int, int, float, str, str]]:
    mine = [_labelled(c, base.words) for c in base.word_index[i, j]]
    theirs = [
        [_labelled(c.flip(1) if swap else c, tuned.words) for swap in (False, True)] for c in tuned.word_index[i, j]
    ]
    shared = np.array([[[len(m & t) for t in both] for both in theirs] for m in mine])
    rows, columns = linear_sum_assignment(shared.max(axis=2), maximize=True)
    found = []
    for r, c in zip(rows.tolist(), columns.tolist(), strict=True):
        other = theirs[c][int(shared[r, c].argmax())]
        gained, lost = (", ".join(sorted(x)) for x in (other - mine[r], mine[r] - other))
        found.append((r, c, shared[r, c].max() / len(mine[r]), gained, lost))
    return found


def _labelled(component: Int[Tensor, "side pole rank"], words: tuple[str, ...]) -> set[str]:
    return {
        f"{side}{'+' if pole > 0 else '-'} {words[index]}"
        for side, poles in zip(OV_SIDES, component.tolist(), strict=True)
        for pole, ranks in zip(POLES, poles, strict=True)
        for index in ranks
    }
