"""How much is computed at once, so that memory does not grow with the number of tokens times the number of passes.

    at once = what fits in BUDGET, FEWEST where that is less, and never more than fits in a quarter of the free memory

A chunk costs a pass of its own beside its directions: of FEWEST that is about a tenth, so more at once saves little.
"""

import torch

from lensdiff.models import ModelView
from lensdiff.models.memory import available_memory

BUDGET = 2**29  # bytes of tangents, or of texts that are read side by side
MEMORY_SHARE = 0.25  # of what is free
FEWEST = 16


def how_many(view: ModelView, n: int, numbers: int) -> int:
    """Return how many of n are computed at once, each of so many numbers of the model's dtype."""
    each = numbers * torch.finfo(view.dtype).bits // 8
    fitting = min(int(MEMORY_SHARE * available_memory(view.device) / each), max(BUDGET // each, FEWEST))
    return max(1, min(n, fitting))


def of_pass(view: ModelView, length: int) -> int:
    """Return how many numbers a pass over a text holds at a time: those of one block."""
    return length * (6 * view.d_model + 4 * view.n_heads * length + 4 * view.d_mlp)
