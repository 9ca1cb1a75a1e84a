"""Outputs made by hand, without a model."""

from collections.abc import Sequence

import torch

from lensdiff.analyses.outputs.output_shift import OutputShift
from lensdiff.results import Provenance

TOKENS = ("Blue", " waves", ".")


def output_shift(tokens: Sequence[str] = TOKENS, *, model: str = "a -> b", prompt_id: str = "p1") -> OutputShift:
    """A response whose tokens are unshifted, marginal, shifted in turn, the last one with the largest KL."""
    n, k = len(tokens), 2
    options = {"base": model.split(" -> ")[0]}
    return OutputShift(
        Provenance("output_shift", model, options=options),
        prompt_id=prompt_id,
        prompt=f"Say {prompt_id}",
        response="".join(tokens),
        response_kind="text",
        merged=False,
        n_shared=50,
        out_tokens=tuple(tokens),
        words=tuple(tokens),
        kl=torch.arange(n, dtype=torch.float64) / 10,
        js=torch.linspace(0, 1, n, dtype=torch.float64),
        agreement=torch.full((n,), 0.5, dtype=torch.float64),
        choice_rank=torch.tensor([(1, 3, 7)[i % 3] for i in range(n)], dtype=torch.int64),
        rank=torch.tensor([[3] * n, [1] * n], dtype=torch.int64),
        probability=torch.tensor([[0.1] * n, [0.6] * n]),
        outside=torch.zeros(2, n),
        likely=torch.arange(2 * n * k).reshape(2, n, k) % max(n, 1),
        likely_probability=torch.tensor([0.6, 0.3]).expand(2, n, k),
        changed=torch.arange(n).flip(0),
        changed_probability=torch.stack([torch.zeros(n), torch.linspace(1, 0.1, n)]).double(),
    )
