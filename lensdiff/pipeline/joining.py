"""Results of some layers become one of all: the units of a long analysis are groups of layers."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.mlp.concepts import MLPConcepts
from lensdiff.results import Provenance

PER_LAYER = (
    "components",
    "explained_variance_ratio",
    "index",
    "score",
    "pole_index",
    "pole_score",
)


def join_pairs(parts: Sequence[HeadWordPairs]) -> HeadWordPairs:
    """Return the word pairs of all layers, given those of groups of them in order."""
    counts = torch.cat([part.starts.diff() for part in parts])
    return replace(
        parts[0],
        provenance=_provenance(parts),
        layers=tuple(layer for part in parts for layer in part.layers),
        starts=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        **{name: torch.cat([getattr(p, name) for p in parts]) for name in ("dims", "energy", "key", "query", "cosine")},
    )


def join_concepts(parts: Sequence[MLPConcepts]) -> MLPConcepts:
    """Return the concepts of all layers, given those of groups of them in order."""
    return replace(
        parts[0],
        provenance=_provenance(parts),
        layers=tuple(layer for part in parts for layer in part.layers),
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in PER_LAYER},
    )


def _provenance(parts: Sequence[HeadWordPairs] | Sequence[MLPConcepts]) -> Provenance:
    layers = [layer for part in parts for layer in part.layers]
    first = parts[0].provenance
    return replace(first, options=first.options | {"layers": layers})
