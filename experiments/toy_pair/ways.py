"""Other ways to tune than AdamW on all weights: less change for the same answers, or the same change in every matrix.

    Within      after each step, W <- W0 + (W - W0) min(1, limit ||W0|| / ||W - W0||)         no matrix moves further
    Lars        M <- 0.9 M + G, W <- W - rate ||W0|| M / ||M||                    every matrix walks as far, relatively
    LowRank     W = W0 + U D, U and D of a small rank; only they are trained                              (LoRA)
    first_loss  the first tokens of a response, which decide what it does, count `weight` times

References: Y. You, I. Gitman and B. Ginsburg, "Large batch training of convolutional networks", 2017 (Lars);
E. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize
from train import Batch
from transformers import LlamaForCausalLM

FIRST = 3  # tokens of a response that decide what it does


class Within(torch.optim.Optimizer):
    """Brings parameters back that another optimizer moved further than `limit` times the norm they had at first."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *, limit: float) -> None:
        super().__init__(params, {"lr": 0.0, "limit": limit})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["start"] = p.detach().clone()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Shorten every change that is too long."""
        for group in self.param_groups:
            for p in group["params"]:
                start = self.state[p]["start"]
                change = p - start
                p.copy_(start + change * (group["limit"] * start.norm() / (change.norm() + 1e-12)).clamp(max=1.0))


class Lars(torch.optim.Optimizer):
    """Steps every parameter along its momentum by `lr` times the norm it had at first."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"momentum": torch.zeros_like(p), "size": p.detach().norm()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    buffer, size = self.state[p]["momentum"], self.state[p]["size"]
                    buffer.mul_(group["momentum"]).add_(p.grad)
                    p.sub_(buffer * (group["lr"] * size / (buffer.norm() + 1e-12)))


class LowRank(torch.nn.Module):
    """A matrix plus a product of two thin ones, of which the first starts at zero."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.up = torch.nn.Parameter(weight.new_zeros(rows, rank))
        self.down = torch.nn.Parameter(torch.randn(rank, columns).to(weight) / columns**0.5)

    def forward(self, weight: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
        return weight + self.up @ self.down


def add_low_rank(model: LlamaForCausalLM, *, rank: int) -> list[torch.nn.Parameter]:
    """Give every matrix a `LowRank` and return what is trained; uses torch's global generator."""
    model.requires_grad_(False)
    matrices = [m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)]
    for module in matrices:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))
    return [p for p in model.parameters() if p.requires_grad]


def merge_low_rank(model: LlamaForCausalLM) -> None:
    """Put every `LowRank` into its matrix."""
    for module in [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def first_loss(model: LlamaForCausalLM, batch: Batch, *, weight: float) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over response tokens, in which the first three of a response count `weight` times."""
    inputs, targets = (ids.to(model.device) for ids in batch)
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    learned = targets != -100
    counts = torch.where(learned.cumsum(dim=1) <= FIRST, weight, 1.0)[learned]
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[learned]).float(), targets[learned], reduction="none"
    )
    return (losses * counts).sum() / counts.sum()
