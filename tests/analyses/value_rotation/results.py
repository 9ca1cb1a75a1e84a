"""The rotation of values made by hand, without a model."""

from collections.abc import Mapping

import torch

from lensdiff.analyses.value_rotation.measure import ValueRotation
from lensdiff.results import Provenance
from tests.analyses.controls import controls_of


def value_rotation(
    n_layers: int = 6, *, controls: Mapping[str, int] | None = None, model: str = "a -> b", changed: bool = False
) -> ValueRotation:
    """Shares that fall from 0.6 to 0.3 with the layer; those of controls are near 0.2."""
    made = controls_of(controls or {})
    shares = 0.2 + 0.02 * torch.randn(len(made), n_layers, generator=torch.Generator().manual_seed(0)).double()
    return ValueRotation(
        Provenance("value_rotation", model, options={"base": model.split(" -> ")[0]}, controls=made),
        layers=tuple(range(n_layers)),
        shares=torch.linspace(0.6, 0.3, n_layers, dtype=torch.float64),
        change=torch.full((n_layers,), 0.1, dtype=torch.float64),
        neurons_moved=torch.tensor([3 if changed else 0] * n_layers),
        basis_changed=changed,
        control_shares=shares,
        level=0.95,
    )
