"""What every matrix reads, token by token, and the gradient of a loss at what it makes of that.

With a_t what a matrix W reads at token t and g_t the gradient of the loss at its output, the gradient of W is
sum_t a_t g_t^T: the two are all that any weighted sum of that kind needs.

Ignores: matrices whose meaning is not known, and mixtures of experts.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.parts import MATRICES, MatrixName, Weight
from lensdiff.models.inside.points import Point
from lensdiff.models.inside.record import BlockRecord, recorded_modules
from lensdiff.models.inside.tape import recorded
from lensdiff.models.inside.wrappers import Wrapper

# what is read by several matrices is one tensor
READ: dict[MatrixName, str] = {"W_Q": "attn", "W_K": "attn", "W_V": "attn", "W_O": "z"}
READ |= {"W_in": "mlp", "W_gate": "mlp", "W_out": "post"}

Reads = dict[tuple[str, int], Float[Tensor, "token d_in"]]
Gradients = dict[Weight, Float[Tensor, "token d_out"]]


def around(
    forward: Forward, meaning: Meaning, tokens: Int[Tensor, "row pos"], loss: Callable[[Tensor], Tensor]
) -> tuple[Reads, Gradients]:
    """Return what matrices read, by place ("attn", "z", "mlp", "post") and layer, and the gradients at their outputs.

    Args:
        loss: of the logits [row pos d_vocab].
    """
    wrapper, wanted = forward.wrapper, Point("logits")
    with torch.enable_grad(), _with_graph(wrapper), recorded(recorded_modules(wrapper)) as tape:
        logits = forward.run(tokens, read=[wanted])[wanted]
        records = [BlockRecord(wrapper, layer, tape, {}) for layer in range(wrapper.sizes().n_layers)]
        reads: Reads = {}
        made: dict[Weight, Tensor] = {}
        for record in records:
            for name in MATRICES:
                if meaning.matrices.get((name, record.layer)) or wrapper.matrix(record.layer, name) is None:
                    continue
                read, out = record.around(name)
                if read is not None and out is not None and out.requires_grad:
                    reads[(READ[name], record.layer)] = read.detach().reshape(tokens.numel(), -1)
                    made[Weight(name, record.layer)] = out
        found = torch.autograd.grad(loss(logits), list(made.values()), allow_unused=True)
    gradients = zip(made, found, strict=True)
    return reads, {weight: g.reshape(tokens.numel(), -1) for weight, g in gradients if g is not None}


@contextmanager
def _with_graph(wrapper: Wrapper) -> Iterator[None]:
    """Let a pass build a graph, also where somebody froze the model."""
    with ExitStack() as stack:
        for parameter in wrapper.model.parameters():
            if not parameter.requires_grad:
                parameter.requires_grad_(True)
                stack.callback(parameter.requires_grad_, False)
        yield
