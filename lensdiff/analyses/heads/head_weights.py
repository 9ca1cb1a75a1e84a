"""The weights of attention heads as the analyses of heads read them."""

from jaxtyping import Float
from torch import Tensor

from lensdiff.models import ModelView


def scaled(view: ModelView, layer: int, name: str) -> Float[Tensor, "head_index d_model d_head"]:
    """Return W_Q, W_K or W_V in float32 with the attention norm's gain on its input side."""
    W, gain = view.weights.needed_matrix(layer, name), view.weights.gain("attn", layer)  # type: ignore[arg-type]
    return W.float() if gain is None else W.float() * gain.float()[:, None]
