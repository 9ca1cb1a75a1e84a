"""Muon in float32: momentum whose update is orthogonalised, for weight matrices.

    M <- 0.95 M + G
    U <- G + 0.95 M, made orthogonal by five Newton-Schulz steps
    W <- W - rate * sqrt(max(1, rows / columns)) * U

torch.optim.Muon does the same in bfloat16, which on CPUs without bfloat16 units took longer than the whole forward and
backward pass; this one stacks matrices of equal shape and stays in float32.

Reference: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Float[Tensor, "matrix row col"], *, n_steps: int = 5) -> Float[Tensor, "matrix row col"]:
    """Matrices with the same singular vectors and singular values near 1 (about 0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = rearrange(matrices, "matrix row col -> matrix col row") if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(n_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return rearrange(x, "matrix col row -> matrix row col") if tall else x


class Muon(torch.optim.Optimizer):
    """Steps two-dimensional parameters by their orthogonalised Nesterov momentum."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[torch.nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append((p, p.grad))
            for shape, params in shapes.items():
                updates = []
                for p, grad in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.mul_(group["momentum"]).add_(grad)
                    updates.append(grad.add(buffer, alpha=group["momentum"]))
                scale = max(1, shape[0] / shape[1]) ** 0.5
                for (p, _), update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
                    p.add_(update, alpha=-group["lr"] * scale)
