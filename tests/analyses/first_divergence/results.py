"""First divergences made by hand, without a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lensdiff.analyses.first_divergence.result import FirstDivergence
from lensdiff.results import Provenance
from tests.analyses.controls import controls_of

PROMPTS = ("poem", "list", "french")
LAYERS = (0, 1, 2, 3, 4)


def first_divergence(
    prompts: Sequence[str] = PROMPTS,
    *,
    controls: Mapping[str, int] | None = None,
    control_layers: Sequence[int] = (2,),
    model: str = "a -> b",
    tokens: tuple[str, str] = (" a", "!"),
    common: tuple[str, ...] = (" the", " sea"),
    agreed: Mapping[str, str] | None = None,
) -> FirstDivergence:
    """Prompt i has Y = -2 - i in the base, 2 in the tuned model; crossed cells go from one to the other by layer.

    No later position after the last prompt. Controls are the base, give or take.
    """
    made, n = controls_of(controls or {}), len(prompts)
    rng = np.random.default_rng(0)
    base = torch.arange(n, dtype=torch.float64)[:, None].expand(n, len(LAYERS)) * -1 - 2
    tuned, down = torch.full_like(base, 2.0), torch.linspace(1, 0, len(LAYERS), dtype=torch.float64)
    bt, tb = base + down * 3, tuned - down
    yields = torch.stack([torch.stack([base, bt], dim=1), torch.stack([tb, tuned], dim=1)], dim=1)
    noise = 0.3 * torch.from_numpy(rng.normal(size=(len(made), n, 2, 2, len(control_layers))))
    later = yields[..., 2] / 2
    if n:
        later[-1] = torch.nan
    return FirstDivergence(
        Provenance("first_divergence", model, options={"base": model.split(" -> ")[0]}, controls=made),
        n_layers=4,
        layers=LAYERS,
        unembed="base",
        prompt_id=tuple(prompts),
        prompt=tuple(f"Say {name}" for name in prompts),
        common=(common,) * n,
        base_token=(tokens[0],) * n,
        tuned_token=(tokens[1],) * n,
        choices=torch.tensor([[3, 4]] * n, dtype=torch.int64).reshape(-1, 2),
        read=(tuple(range(5 + len(common))),) * n,
        yields=yields,
        with_other=yields + 1,
        later=later,
        earlier=yields[..., 2] / 100,
        n_later=torch.tensor([2] * (n - 1) + [0] * bool(n), dtype=torch.int64),
        n_earlier=torch.full((n,), 4),
        controls=base[:, None, None, list(control_layers)] + noise,
        control_layers=tuple(control_layers),
        agreed=dict(agreed or {}),
        failures={},
        level=0.95,
    )
