"""One text after the other in several models: results of `attention` that can be compared."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

import torch

from lensdiff.analyses.attention.patterns import AttentionPatterns
from lensdiff.results import InputError

Patterns = AttentionPatterns | Iterable[AttentionPatterns]


def same_texts(names: Sequence[str], runs: Sequence[Patterns]) -> Iterator[tuple[AttentionPatterns, ...]]:
    """Yield the results of one text after the other, those of all models, checked to be comparable.

    Raises:
        InputError: a model has more results than another, or other tokens, parts, layers or heads, or no patterns.
    """
    many = [(run,) if isinstance(run, AttentionPatterns) else run for run in runs]
    shape = None
    for i, group in enumerate(zip_longest(*many)):
        for name, result in zip(names, group, strict=True):
            if result is None:
                raise InputError(f"{name} has {i} attention results, another model has more: expected the same texts")
            if not isinstance(result, AttentionPatterns):
                raise InputError(f"{name} holds a {type(result).__name__}, expected results of attention()")
            _check(group[0], result, f"text {i}: {name}")
        shape = shape or _shape(group[0])
        if _shape(group[0]) != shape:
            raise InputError(f"text {i} has {_shape(group[0])}, text 0 has {shape}: expected the same")
        yield group


def _shape(result: AttentionPatterns) -> str:
    return f"layers {list(result.layers)} of {result.sink_share.shape[1]} heads"


def _check(base: AttentionPatterns, other: AttentionPatterns, name: str) -> None:
    if other.tokens != base.tokens:
        n = next(i for i, (a, b) in enumerate(zip_longest(base.tokens, other.tokens)) if a != b)
        seen = " but ".join(repr(r.tokens[n]) if n < len(r.tokens) else "no token" for r in (other, base))
        raise InputError(f"{name} read other tokens than base, {seen} at position {n}: expected the same text in both")
    if _shape(other) != _shape(base):
        raise InputError(f"{name} has {_shape(other)}, base has {_shape(base)}: expected the same")
    # a BOS that is written in the prompt may be special in one model and an ordinary token of the other
    same_boundary = other.n_special + other.n_prompt == base.n_special + base.n_prompt
    if not same_boundary or not torch.equal(other.parts, base.parts):
        raise InputError(f"{name} was read with another prompt, other spans or another sink= than base")
    if not (base.patterns.numel() and other.patterns.numel()):
        raise InputError(f"{name} or base was made with keep_patterns=False, expected kept patterns")
