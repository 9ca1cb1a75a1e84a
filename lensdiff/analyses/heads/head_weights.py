"""The weights of attention heads as the analyses of heads read them."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from lensdiff.models import ModelView
from lensdiff.results import InputError


def chosen_indices(wanted: Sequence[int] | None, size: int, what: str) -> tuple[int, ...]:
    """Return the layers or heads asked for, all of them for None.

    Raises:
        InputError: none is asked for, one twice, or one that the model does not have.
    """
    chosen = tuple(range(size)) if wanted is None else tuple(wanted)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= x < size for x in chosen):
        raise InputError(f"{what} {list(chosen)} cannot be read, expected distinct ones from 0 to {size - 1}")
    return chosen


def scaled(view: ModelView, layer: int, name: str) -> Float[Tensor, "head_index d_model d_head"]:
    """Return W_Q, W_K or W_V in float32 with the attention norm's gain on its input side."""
    W, gain = view.weights.needed_matrix(layer, name), view.weights.gain("attn", layer)  # type: ignore[arg-type]
    return W.float() if gain is None else W.float() * gain.float()[:, None]
