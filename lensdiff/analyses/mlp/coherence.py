"""Whether a component's words belong together: how alike their word vectors are, beside those of random directions.

    coherence = mean cosine of the word vectors of two different top words of the component        in [-1, 1]
    null      the same of random directions in the residual stream, uniform over the sphere, named by the same model
    p         rank of a component among the random directions, one-sided; adjusted over all components shown

So "interpretable" is a number with a null: at p <= 0.05, 5 % of directions without meaning pass. Random directions are
named by the same words of the same embedding as the components, so what any direction gets for free (frequent
neighbours, word vectors that come from the model itself) is in the null too.

What it is not: a coherent component need not be used by the model, and one whose words share a role rather than a
meaning (all plurals) is coherent only if the word vectors know that role. Components of one layer and of neighbouring
layers are not independent, so there is no p-value for the whole model.

Memory: the word vectors and embeddings, and the scores of `CHUNK` directions [direction, word].
Reference: Roeder, Both and Hinneburg, WSDM 2015 (coherence of word lists); the null is lensdiff's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.mlp.components import Side
from lensdiff.analyses.mlp.concepts import (
    READ_AGAINST,
    Embedding,
    MLPConcepts,
    TopWords,
    named_components,
    word_directions,
)
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model
from lensdiff.models.given import check_results, one_model
from lensdiff.models.progress import tracked
from lensdiff.models.words import vectors_for, word_tokens
from lensdiff.results import InputError, Result
from lensdiff.results.numbers import check_count, check_seed
from lensdiff.results.tidy import tidy

WORDS = 15  # as many as an annotator is shown
DIRECTIONS = 999
CHUNK = 256
READINGS = ("absolute", "positive", "negative")
SIGNIFICANT = 0.05


def mean_pairwise_cosine(
    vectors: Float[np.ndarray, "word dim"], known: Bool[np.ndarray, " word"], sets: Int[np.ndarray, "*batch top"]
) -> Float[np.ndarray, "*batch"]:
    """Return the mean cosine over the pairs of different words of each set; words without a vector do not count.

    For k unit vectors that is (|sum|^2 - k) / (k (k - 1)). NaN where fewer than two words have a vector.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    counted = known & (lengths[:, 0] > 0)
    unit = np.where(counted[:, None], vectors / np.where(lengths > 0, lengths, 1.0), 0.0).astype(np.float64)
    flat = sets.reshape(-1, sets.shape[-1])
    sums = np.stack([unit[row].sum(axis=0) for row in flat])
    k = counted[flat].sum(axis=1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = ((sums**2).sum(axis=1) - k) / (k * (k - 1))
    return np.where(k > 1, means, np.nan).reshape(sets.shape[:-1])


@dataclass(frozen=True, eq=False)
class Coherence(Result):
    """The coherence of every component with its null; NaN where fewer than two of its words have a vector.

    Attributes:
        layers, sides: what the axes count.
        coherence: mean pairwise cosine of the words of a component.
        explained_variance_ratio: the component's share of its layer's variance.
        null: the same of random directions, per side.
        p, p_adjusted: rank among those; adjusted over all components (Benjamini-Hochberg), those of this model alone
            until `adjusted_together` makes one family of the models that one table shows.
        coverage: share of the concepts' words that have a word vector.
    """

    calls = ("by_layer()", "top()", "to_df()", "show()")

    layers: tuple[int, ...]
    sides: tuple[Side, ...]
    coherence: Float[Tensor, "layer side component"]
    explained_variance_ratio: Float[Tensor, "layer side component"]
    null: Float[Tensor, "side direction"]
    p: Float[Tensor, "layer side component"]
    p_adjusted: Float[Tensor, "layer side component"]
    coverage: float

    def told(self) -> list[str]:
        """Return the mean coherence beside that of random directions, and how many components lie above it."""
        lines = [f"mean coherence {float(self.coherence.nanmean()):.3g}, of random directions "
                 f"{float(self.null.nanmean()):.3g}"]  # fmt: skip
        n, above = int((~self.p.isnan()).sum()), int((self.p_adjusted <= SIGNIFICANT).sum())
        return [*lines, f"{above} of {n} components above it (adjusted p of at most {SIGNIFICANT})"]

    def to_df(self) -> pd.DataFrame:
        """Return one row per component: layer, side, component, explained_variance_ratio, coherence, p, p_adjusted."""
        axes = {"layer": self.layers, "side": self.sides, "component": range(self.p.shape[2])}
        columns = ("explained_variance_ratio", "coherence", "p", "p_adjusted")
        return tidy(axes, {name: getattr(self, name) for name in columns})

    def by_layer(self) -> pd.DataFrame:
        """Return one row per layer and side: mean_coherence, null_mean, share_above, share_adjusted.

        The shares are of components with p (or adjusted p) of at most 0.05; without any meaning share_above is 0.05.
        """
        frame = self.to_df().dropna(subset="coherence")
        frame["share_above"] = frame.p <= SIGNIFICANT
        frame["share_adjusted"] = frame.p_adjusted <= SIGNIFICANT
        columns = ["coherence", "share_above", "share_adjusted"]
        grouped = frame.groupby(["layer", "side"], sort=False)[columns]
        means = cast(pd.DataFrame, grouped.mean()).rename(columns={"coherence": "mean_coherence"}).reset_index()
        null = dict(zip(self.sides, self.null.nanmean(dim=1).tolist(), strict=True))
        means.insert(3, "null_mean", means.side.map(null))
        return means

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k most coherent components."""
        return self.to_df().nlargest(k, "coherence").reset_index(drop=True)


def coherence(
    model: Model,
    concepts: MLPConcepts,
    vectors: WordVectors | None = None,
    *,
    top_words: int = WORDS,
    reading: str = "absolute",
    n_directions: int = DIRECTIONS,
    seed: int = 0,
) -> Coherence:
    """Return how coherent the words of each component are, beside the words of random directions of the same model.

    Args:
        concepts: of `mlp_concepts`, whose components are judged.
        model: the model that the concepts are of; it names the random directions.
        vectors: the word vectors; the same for every model that is compared. None for the model's own input embeddings.
        top_words: words of a component, clipped to those that `concepts` keeps.
        reading: "absolute" (words of largest |score|, as annotators see them), or those at the "positive" or
            "negative" pole.
        n_directions: random directions, at least 19.
        seed: of the random directions.

    Raises:
        InputError: the reading does not exist, a number is too small, the model is of another width than the concepts,
            or fewer than 19 random directions have two words with a vector.
    """
    view = one_model(model, "coherence")
    check_results(concepts, MLPConcepts, "coherence", "mlp_concepts")
    if reading not in READINGS:
        raise InputError(f"reading={reading!r} is none of {', '.join(READINGS)}")
    check_count("top_words", top_words, least=2)  # coherence is about pairs
    check_count("n_directions", n_directions, least=stats.FEWEST_FOR_RANK)
    check_seed(seed)
    if view.d_model != concepts.components.shape[-1]:
        raise InputError(
            f"{view.info.id} has d_model {view.d_model}, the concepts have {concepts.components.shape[-1]}: "
            "expected the model they were read from"
        )
    vectors = vectors_for(view, vectors, concepts.words)
    found, known = vectors.lookup(concepts.words)
    named = TopWords(concepts.index, concepts.score, concepts.pole_index, concepts.pole_score)
    own = mean_pairwise_cosine(found, known, _read(named, reading, top_words))
    tokens = word_tokens(view, concepts.words)
    names: dict[Embedding, None] = dict.fromkeys(READ_AGAINST[side] for side in concepts.sides)
    nulls: dict[Embedding, np.ndarray] = {}
    for name in tracked(names, "reading random directions"):
        words = word_directions(view, name, tokens).cpu()
        chunks = _random_directions(n_directions, view.d_model, seed).split(CHUNK)
        top = concepts.index.shape[3]
        sets = [_read(named_components(chunk, words, top=top)[1], reading, top_words) for chunk in chunks]
        nulls[name] = mean_pairwise_cosine(found, known, np.concatenate(sets))
    null = np.stack([nulls[READ_AGAINST[side]] for side in concepts.sides])
    p, adjusted = _ranks(own, null)
    options = {"top_words": top_words, "reading": reading, "n_directions": n_directions, "vectors": vectors.source}
    provenance = replace(concepts.provenance, analysis="coherence", seed=seed)
    return Coherence(
        replace(provenance, options=options | {"concepts": concepts.provenance.options}),
        concepts.layers,
        concepts.sides,
        *(torch.from_numpy(values) for values in (own, concepts.explained_variance_ratio.numpy(), null, p, adjusted)),
        coverage=float(known.mean()),
    )


def adjusted_together(*results: Coherence) -> tuple[Coherence, ...]:
    """Return the results with p_adjusted over the components of all of them: what one table shows is one family."""
    p = np.concatenate([result.p.numpy().flatten() for result in results])
    known = ~np.isnan(p)
    blank = stats.Test("rank among controls", 0.0, None, None, 0.95, None, (), None, alternative="greater")
    tests = [replace(blank, p=float(value)) for value in p[known]]
    adjusted = np.full(p.shape, np.nan)
    adjusted[known] = [t.p_adjusted for t in stats.adjust(tests, family=f"{len(tests)} components of all models")]
    ends = np.cumsum([result.p.numel() for result in results])[:-1]
    parts = zip(results, np.split(adjusted, ends), strict=True)
    return tuple(replace(one, p_adjusted=torch.from_numpy(part.reshape(one.p.shape))) for one, part in parts)


def _random_directions(n: int, d_model: int, seed: int) -> Float[Tensor, "direction d_model"]:
    gaussian = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(gaussian, dim=1)


def _read(named: TopWords, reading: str, top_words: int) -> Int[np.ndarray, "*batch top"]:
    if reading == "absolute":
        return named.index[..., :top_words].cpu().numpy()
    return named.pole_index[..., ("positive", "negative").index(reading), :top_words].cpu().numpy()


def _ranks(
    own: Float[np.ndarray, "layer side component"], null: Float[np.ndarray, "side direction"]
) -> tuple[Float[np.ndarray, "layer side component"], Float[np.ndarray, "layer side component"]]:
    """Return each component's p among the random directions of its side, and the adjusted one."""
    null_of: Sequence[np.ndarray] = [row[~np.isnan(row)] for row in null]
    fewest = min(map(len, null_of))
    if fewest < stats.FEWEST_FOR_RANK:
        raise InputError(
            f"only {fewest} random directions have two words with a vector, {stats.FEWEST_FOR_RANK} are needed"
        )
    p, adjusted = np.full(own.shape, np.nan), np.full(own.shape, np.nan)
    places = [place for place in np.ndindex(own.shape) if not np.isnan(own[place])]
    tests = [stats.control_rank(own[place], null_of[place[1]], alternative="greater") for place in places]
    for place, test in zip(places, stats.adjust(tests, family=f"{len(tests)} components"), strict=True):
        p[place], adjusted[place] = test.p, test.p_adjusted
    return p, adjusted
