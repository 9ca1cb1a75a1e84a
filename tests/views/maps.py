"""Results of weights, outputs and attention made by hand, without a model."""

from collections.abc import Sequence

import torch

from lensdiff.analyses.attention.distances import DISTANCES
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.analyses.attention.shift import STATISTICS, AttentionShift
from lensdiff.analyses.outputs.output_shift import OutputShift
from lensdiff.analyses.weights.weight_shift import NONE, WeightShift
from lensdiff.results import Control, ControlModel, Provenance
from lensdiff.stats import FEWEST_FOR_RANK, against_controls

LAYERS, HEADS = 3, 2
TOKENS = ("Blue", " waves", ".")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def weight_shift(model: str = "a -> b", *, planted: float = 2.0, others: Sequence[str] = ()) -> WeightShift:
    """Two headed matrices and one without heads per layer, and `others`; head 1 of W_Q in layer 2 moved most."""
    rows = [("W_E", NONE, NONE)]
    for layer in range(LAYERS):
        rows += [(name, layer, head) for name in ("W_Q", "W_O") for head in range(NONE, HEADS)] + [
            ("W_in", layer, NONE)
        ]
    rows += [(name, layer, NONE) for layer in range(LAYERS) for name in others]
    raw = torch.rand(len(rows), 4, generator=generator(), dtype=torch.float64)
    raw[rows.index(("W_Q", 2, 1)), 0] = planted
    return WeightShift(
        Provenance("weight_shift", model, options={"base": model.split(" -> ")[0]}),
        tuple(name for name, _, _ in rows),
        8,
        torch.tensor([layer for _, layer, _ in rows]),
        torch.tensor([head for _, _, head in rows]),
        raw,
        raw / 2,
    )


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


def attention(
    tokens: Sequence[str] = TOKENS, *, model: str = "a", prompt_id: str = "p1", sharp: tuple[int, int] | None = None
) -> AttentionPatterns:
    """Uniform attention in every head; the sharp head looks at its own token alone."""
    n = len(tokens)
    patterns = torch.ones(LAYERS, HEADS, n, n).tril()
    patterns /= patterns.sum(-1, keepdim=True)
    if sharp is not None:
        patterns[sharp] = torch.eye(n)
    shares = {name: torch.rand(LAYERS, HEADS, generator=generator(), dtype=torch.float64) for name in MEASURES}
    return AttentionPatterns(
        Provenance("attention", model, options={"sink": "apart"}),
        prompt_id,
        tuple(tokens),
        0,
        n - 1,
        tuple(range(LAYERS)),
        torch.zeros(3, n, dtype=torch.bool),
        **shares,
        patterns=patterns,
    )


def attention_shift(*, controls: int = 19, model: str = "b") -> AttentionShift:
    """Head 1 of layer 2 moved beyond its band, head 0 of layer 1 towards the base; no context was marked.

    There are bands from 19 controls.
    """
    distances = torch.full((len(DISTANCES), LAYERS, HEADS), 0.1, dtype=torch.float64)
    distances[:, 2, 1] = 0.9
    band = torch.tensor([0.05, 0.2]).double()[None, :, None, None].expand(len(DISTANCES), 2, LAYERS, HEADS).clone()
    measures = torch.full((len(MEASURES), len(STATISTICS), LAYERS, HEADS), 0.01, dtype=torch.float64)
    measures[:, STATISTICS.index("difference"), 1, 0] = -0.4
    measures[MEASURES.index("context_share")] = torch.nan
    if controls < FEWEST_FOR_RANK:
        band[:] = torch.nan
        measures[:, [STATISTICS.index(name) for name in ("control_low", "control_high")]] = torch.nan
    made = tuple(ControlModel(f"c{i}", Control("spectrum", i)) for i in range(controls))
    beside = {"spectrum": torch.linspace(0.1, 0.2, controls).numpy()} if controls else {}
    return AttentionShift(
        Provenance("attention_shift", model, options={"base": "a", "n_prompts": 4}, controls=made),
        tuple(range(LAYERS)),
        (4, 4, 4, 0, 4),
        distances,
        band,
        measures,
        against_controls(0.4, beside).envelope,
    )
