"""Results of the residual stream made by hand, without a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lensdiff.analyses.residual_stream.lens import LogitLens
from lensdiff.analyses.residual_stream.lens_shift import LensCurves, LensShift, lens_shift
from lensdiff.analyses.residual_stream.parts_shift import ModelParts, PartsShift, parts_shift
from lensdiff.analyses.residual_stream.split import Part, Split, parts_of
from lensdiff.results import Provenance
from lensdiff.results.provenance import ControlModel
from tests.analyses.controls import controls_of

TOKENS = ("Red", " blue", "\n")
PROMPTS = ("p1", "p2", "p3", "p4")
LAYERS, HEADS = 2, 2
RISE = 3.0  # of head 1.0 from base to tuned


def logit_lens(
    tokens: Sequence[str] = TOKENS, *, model: str = "b", prompt_id: str = "p1", shift: float = 0.0
) -> LogitLens:
    """Two layers that find another word first, the output the token itself; `shift` moves the probabilities."""
    n, words = len(tokens), (*dict.fromkeys((*tokens, "other", "more")),)
    place = {word: i for i, word in enumerate(words)}
    own, other = [place[token] for token in tokens], [place["other"]] * n
    likely = torch.tensor([[[w, place["more"]] for w in row] for row in (other, other, own)]).reshape(3, n, 2)
    prob = torch.tensor([[0.01 + shift] * n, [0.2 + shift] * n, [0.9] * n], dtype=torch.float64).reshape(3, n)
    chances = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)[:, None, None].expand(3, n, 2).clone()
    return LogitLens(
        Provenance("logit_lens", model),
        prompt_id,
        f"Say {prompt_id}",
        "".join(tokens),
        tuple(tokens),
        n_layers=LAYERS,
        layers=(0, 1, 2),
        words=words,
        word_ids=torch.arange(len(words)) + 10,
        kl=torch.tensor([[4.0] * n, [2.0 - shift] * n, [0.0] * n], dtype=torch.float64).reshape(3, n),
        rank=torch.tensor([[9] * n, [3] * n, [1] * n]).reshape(3, n),
        prob=prob,
        likely=likely,
        likely_prob=chances,
        committed=torch.full((n,), LAYERS),
    )


def _control(control: ControlModel) -> Provenance:
    return Provenance("", control.name, control=control.made)


def curves(provenance: Provenance, kl: float, committed: float, n: int = len(PROMPTS)) -> LensCurves:
    """One model whose KL is `kl` at layer 0 and half of that at layer 1, a tenth more with each prompt."""
    rows = torch.tensor([[kl, kl / 2, 0.0]] * n, dtype=torch.float64) * (1 + 0.1 * torch.arange(n))[:, None]
    prob = torch.exp(-rows)
    return LensCurves(provenance, PROMPTS[:n], (3,) * n, (0, 1, 2), rows, prob, torch.full((n,), committed).double())


def shift_of_lens(controls: Mapping[str, int] | None = None, n: int = len(PROMPTS)) -> LensShift:
    """A tuned model that commits half a layer earlier; controls are the base, give or take."""
    rng = np.random.default_rng(0)
    beside = [
        curves(_control(c), 4.0 + 0.1 * rng.normal(), 1.5 + 0.01 * rng.normal(), n) for c in controls_of(controls or {})
    ]
    base, tuned = curves(Provenance("", "a"), 4.0, 1.5, n), curves(Provenance("", "b"), 6.0, 1.0, n)
    return lens_shift(base, tuned, beside, provenance=Provenance("logit_lens_shift", "a -> b", options={"base": "a"}))


def model_parts(provenance: Provenance, head: float, noise: float = 0.0, n: int = len(PROMPTS)) -> ModelParts:
    """One model whose head 1.0 adds `head`, a tenth more with each prompt, and whose MLPs add 1."""
    parts = parts_of(LAYERS, HEADS, positions=False)

    def one(i: int) -> Split:
        values = torch.full((len(parts), 3), 0.1 + noise * (1 + 0.1 * i), dtype=torch.float64)
        values[parts.index(Part("head", 1, 0))] = head * (1 + 0.1 * i)
        for layer in range(LAYERS):
            values[parts.index(Part("mlp", layer))] = 1.0
        return Split(parts, values, values.sum(dim=0))

    return ModelParts.of(provenance, ((name, one(i)) for i, name in enumerate(PROMPTS[:n])))


def shift_of_parts(controls: Mapping[str, int] | None = None, n: int = len(PROMPTS)) -> PartsShift:
    """A tuned model whose head 1.0 adds RISE more; controls change the heads a little."""
    rng = np.random.default_rng(1)
    beside = [
        model_parts(_control(c), 0.5 + 0.1 * rng.normal(), 0.01 * rng.normal(), n) for c in controls_of(controls or {})
    ]
    base, tuned = model_parts(Provenance("", "a"), 0.5, n=n), model_parts(Provenance("", "b"), 0.5 + RISE, n=n)
    origin = Provenance("direct_logit_attribution", "a -> b", options={"base": "a"})
    return parts_shift(base, tuned, beside, provenance=origin)
