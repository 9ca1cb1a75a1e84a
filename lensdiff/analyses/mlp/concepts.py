"""Concepts of feed-forward layers: their principal components, named by the words nearest to them.

    score[w] = v_r . U_w / ||U_w||        a cosine in [-1, 1]; the words of component v_r are those of largest |score|

    value       U_w = mean of the word's sub-token output embeddings (rows of W_U transposed)
    key, gate   U_w = mean of its input embeddings (rows of W_E)

The components are those of `lensdiff.analyses.mlp.components`, which says what they leave out. Their sign is arbitrary:
it is chosen so that the word of largest |score| scores positive, and `poles()` tells the two ends apart. Embeddings
are taken as they are: the final norm's gain is not folded into W_U.

Memory: the word embeddings [word, d_model] and one layer: its vectors in float64 and the scores [component, word].
Reference: Wu et al., NAACL 2024, section 6; doi 10.18653/v1/2024.naacl-long.130. Keys, gates and poles are lensdiff's
own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, SupportsInt

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from lensdiff.analyses.mlp.components import COMPONENTS, Selection, Side
from lensdiff.analyses.mlp.defaults import READ_SIDES, TOP_WORDS
from lensdiff.models import Model, ModelView
from lensdiff.models.given import one_model
from lensdiff.models.words import WordList, WordTokens, listed, word_embeddings, word_tokens
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import check_count
from lensdiff.results.tidy import tidy

Embedding = Literal["W_U", "W_E"]
SHOWN = 4  # words of a component in `top`
READ_AGAINST: dict[Side, Embedding] = {"value": "W_U", "key": "W_E", "gate": "W_E"}


class TopWords(NamedTuple):
    """Indices and signed scores of the words of largest |score|, and of those at either pole (positive, negative)."""

    index: Int[Tensor, "component word"]
    score: Float[Tensor, "component word"]
    pole_index: Int[Tensor, "component pole word"]
    pole_score: Float[Tensor, "component pole word"]


def named_components(
    components: Float[Tensor, "component d_model"], words: Float[Tensor, "word d_model"], *, top: int
) -> tuple[Float[Tensor, "component d_model"], TopWords]:
    """Return the components, turned so that the word of largest |score| scores positive, and their top words.

    score = components . words, with words of length 1.
    """
    scores = components.to(words.dtype).to(words.device) @ words.T
    index = scores.abs().topk(top, dim=1).indices
    sign = torch.where(scores.gather(1, index[:, :1]) < 0, -1.0, 1.0).to(scores.dtype)
    scores = scores * sign
    poles = [scores.topk(top, dim=1, largest=largest) for largest in (True, False)]
    named = TopWords(
        index,
        scores.gather(1, index),
        torch.stack([pole.indices for pole in poles], dim=1),
        torch.stack([pole.values for pole in poles], dim=1),
    )
    return components * sign.to(components.device), named


@dataclass(frozen=True, eq=False)
class MLPConcepts(Result):
    """The concepts of a model's feed-forward layers.

    Attributes:
        layers, sides: what the axes count.
        words: that may name a component; excluded: words of the list that map to no token.
        components: in float32, of length 1, most variance first.
        explained_variance_ratio: each component's share of its layer's variance.
        index, score: the words of largest |score| of a component, as places in `words`, and their signed scores.
        pole_index, pole_score: the same of either pole (axis `pole`: positive, negative).
    """

    layer_by_layer: ClassVar[bool] = True

    calls = ("top()", "poles()", "to_df()", "show()")

    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    words: tuple[str, ...]
    excluded: tuple[str, ...]
    components: Float[Tensor, "layer side component d_model"]
    explained_variance_ratio: Float[Tensor, "layer side component"]
    index: Int[Tensor, "layer side component word"]
    score: Float[Tensor, "layer side component word"]
    pole_index: Int[Tensor, "layer side component pole word"]
    pole_score: Float[Tensor, "layer side component pole word"]

    def told(self) -> list[str]:
        """Return the component that explains most of its layer's variance, with its words."""
        row: Any = self.top(1).iloc[0]
        where = f"layer {row.layer}, {row.side} component {row.component}"
        return [f"{where} explains {row.explained_variance_ratio:.1%}: {row.words}"]

    def to_df(self) -> pd.DataFrame:
        """Return one row per word of a component: layer, side, component, explained_variance_ratio, rank, word, score.

        Words of largest |score| first; the score is signed.
        """
        columns = {
            "explained_variance_ratio": self.explained_variance_ratio[..., None],
            "word": self._words(self.index),
            "score": self.score,
        }
        frame = tidy(self._components | {"rank": range(1, self.index.shape[3] + 1)}, columns)
        frame.insert(3, "explained_variance_ratio", frame.pop("explained_variance_ratio"))
        return frame

    def poles(self) -> pd.DataFrame:
        """Return the words at both ends: layer, side, component, pole (positive, negative), rank, word, score."""
        axes = self._components | {"pole": ("positive", "negative"), "rank": range(1, self.pole_index.shape[4] + 1)}
        return tidy(axes, {"word": self._words(self.pole_index), "score": self.pole_score})

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k components that explain most of their layer's variance, each with its first words in one text.

        `words_of` and `to_df` have more of them.
        """
        shown = min(SHOWN, self.index.shape[3])
        frame = tidy(self._components, {"explained_variance_ratio": self.explained_variance_ratio})
        frame["words"] = [", ".join(row) for row in self._words(self.index[..., :shown]).reshape(-1, shown)]
        return frame.nlargest(k, "explained_variance_ratio").reset_index(drop=True)

    def words_of(self, layer: SupportsInt, side: str, component: SupportsInt, k: int = 15) -> list[str]:
        """Return the k first words of one component.

        Raises:
            InputError: the layer, side or component was not analysed.
        """
        layer, component = int(layer), int(component)
        if layer not in self.layers or side not in self.sides or not 0 <= component < self.index.shape[2]:
            raise InputError(
                f"no component {component} of layer {layer}, side {side!r}: this result has layers "
                f"{list(self.layers)}, sides {list(self.sides)} and {self.index.shape[2]} components"
            )
        row = self.index[self.layers.index(layer), [*self.sides].index(side), component]
        return [self.words[i] for i in row[:k].tolist()]

    @property
    def _components(self) -> dict[str, Sequence]:
        return {"layer": self.layers, "side": self.sides, "component": range(self.index.shape[2])}

    def _words(self, index: Int[Tensor, "..."]) -> np.ndarray:
        return np.asarray(self.words, dtype=object)[index.numpy()]


def mlp_concepts(
    model: Model,
    vocabulary: WordList | None = None,
    *,
    layers: Sequence[int] | None = None,
    sides: Sequence[str] = READ_SIDES,
    n_components: int = COMPONENTS,
    top_words: int = TOP_WORDS,
    fold_gain: bool = True,
) -> MLPConcepts:
    """Return the principal components of feed-forward layers with their words, streaming layer by layer.

    Args:
        model: one model; for a pair `pair.compare(mlp_concepts, ...)`.
        vocabulary: the words that may name a component; None for the shipped ones.
        layers: all of them unless given.
        sides: of value, key, gate.
        n_components: clipped to d_model and to d_mlp - 1; the number used is recorded as `components_used`.
        top_words: words kept per component and pole, clipped to the words there are.
        fold_gain: multiply keys and gates by the gain of the norm before the layer, where it has one.

    Raises:
        InputError: a layer or side does not exist, a number is below 1, or the word list is unusable.
    """
    view = one_model(model, "mlp_concepts")
    selection = Selection.of(view, layers, sides, n_components, fold_gain)
    check_count("top_words", top_words)
    tokens = word_tokens(view, listed(vocabulary))
    names: set[Embedding] = {READ_AGAINST[side] for side in selection.sides}
    embeddings = {name: word_directions(view, name, tokens) for name in names}
    top = min(top_words, len(tokens.words))
    found: list[tuple[Tensor, ...]] = []
    for side, fitted in selection.components(view):
        turned, named = named_components(fitted.components, embeddings[READ_AGAINST[side]], top=top)
        arrays = (turned.float(), fitted.explained_variance_ratio, named.index.int(), named.score)
        found.append((*arrays, named.pole_index.int(), named.pole_score))
    return MLPConcepts(
        view.provenance("mlp_concepts", selection.options(view) | {"top_words": top_words}),
        selection.layers,
        selection.sides,
        tokens.words,
        tokens.excluded,
        *selection.stack(found),
    )


def word_directions(view: ModelView, name: Embedding, tokens: WordTokens) -> Float[Tensor, "word d_model"]:
    """Return the words' mean embeddings, of length 1: what the components are read against."""
    return normalize(word_embeddings(view.weights.W_U.T if name == "W_U" else view.weights.W_E, tokens), dim=1)
