"""Results of patching made by hand, without a model."""

from collections.abc import Mapping, Sequence

import torch

from lensdiff.analyses.patch.result import Patched
from lensdiff.analyses.patch.set_result import SetPatch
from lensdiff.results import Provenance
from lensdiff.results.diff import SIDES
from tests.analyses.controls import controls_of

PROMPTS = ("poem", "list")
LAYERS, HEADS = 3, 2
GROUPS = ("instruction", "response")
PLANTED = 1, 1  # layer and head with the largest effect, 1.5 of a total of 3
TOTAL = 3.0


def patched(
    prompts: Sequence[str] = PROMPTS,
    *,
    controls: Mapping[str, int] | None = None,
    estimated: bool = False,
    model: str = "a -> b",
) -> Patched:
    """Heads and MLPs at all positions, the stream by groups; controls do nearly nothing, the planted head much."""
    sites = [("head", layer, head, "all") for layer in range(LAYERS) for head in range(HEADS)]
    sites += [("mlp", layer, -1, "all") for layer in range(LAYERS)]
    sites += [("resid", layer, -1, at) for layer in range(LAYERS + 1) for at in GROUPS]
    n = len(sites)
    made = controls_of(controls or {})
    effect = torch.zeros(len(prompts), 2 * n, dtype=torch.float64)
    for p in range(len(prompts)):
        for side, sign in enumerate((1.0, -1.0)):
            for i, (component, layer, head, _) in enumerate(sites):
                size = 1.5 if (component, layer, head) == ("head", *PLANTED) else 0.01 * (i + 1)
                effect[p, side * n + i] = sign * (size + 0.1 * p)
    noise = torch.randn(len(made), *effect.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 50
    noise[:, :, n:] = torch.nan
    estimate = torch.full_like(effect, torch.nan)
    other = torch.full_like(effect, torch.nan)
    other[:, : LAYERS * HEADS] = 0.05
    if estimated:
        estimate = effect + 0.2
        effect = effect.clone()
        effect[:, 0] = torch.nan
    total = torch.full_like(effect, TOTAL)
    total[:, n:] *= -1
    return Patched(
        Provenance("patch_sweep", model, options={"base": model.split(" -> ")[0]}, controls=made),
        "log_prob",
        tuple(prompts),
        component=tuple(component for component, *_ in sites) * 2,
        layer=torch.tensor([layer for _, layer, _, _ in sites] * 2),
        head_index=torch.tensor([head for _, _, head, _ in sites] * 2),
        at=tuple(at for *_, at in sites) * 2,
        into=tuple(side for side in SIDES for _ in sites),
        clean=torch.full_like(effect, -4.0),
        donor=total - 4.0,
        effect=effect,
        estimate=estimate,
        other_effect=other,
        control_effect=noise,
        failures={},
        least_total=0.01,
        level=0.95,
    )


def set_patch(
    prompts: Sequence[str] = PROMPTS, *, controls: Mapping[str, int] | None = None, model: str = "a -> b"
) -> SetPatch:
    """Two heads that move the response by 1 into the base and by -0.5 into the tuned model; 19 random sets, a tenth."""
    made = controls_of(controls or {})
    effect = torch.tensor([[1.0, -0.5]] * len(prompts), dtype=torch.float64)
    steps = torch.linspace(0.5, 1.5, 19, dtype=torch.float64)[:, None, None] / 10
    return SetPatch(
        Provenance("patch_set", model, options={"base": model.split(" -> ")[0]}, controls=made),
        ((0, 1), (1, 0)),
        "log_prob",
        tuple(prompts),
        clean=torch.tensor([[-3.0, -1.0]] * len(prompts), dtype=torch.float64),
        effect=effect,
        random_heads=torch.zeros(19, 2, 2, dtype=torch.int64),
        random_effect=steps * effect,
        control_effect=torch.linspace(-0.1, 0.1, max(1, len(made)), dtype=torch.float64)[: len(made), None].expand(
            len(made), len(prompts)
        ),
        failures={},
        level=0.95,
    )
