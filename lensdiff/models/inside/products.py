"""Products of a few rows with a large matrix, as decoding makes them."""

import torch
from jaxtyping import Float
from torch import Tensor

# Of so many rows a product with a float32 matrix that lies [out, in] took half of the time in blocks of so many outputs
# (MKL on one thread and on two: 4 to 12 rows, matrices from 576 x 576 to 49152 x 576); of fewer or of more as long.
ROWS, BLOCK = range(3, 13), 64


def blocks_pay(rows: Tensor, matrix: Float[Tensor, "d_in d_out"]) -> bool:
    """Return whether a product is one that takes less time in blocks of outputs."""
    lies = matrix.stride(0) == 1 and matrix.dtype == torch.float32 and matrix.device.type == "cpu"
    return lies and rows.ndim == 2 and len(rows) in ROWS and matrix.shape[1] >= BLOCK


def few_rows(rows: Float[Tensor, "row d_in"], matrix: Float[Tensor, "d_in d_out"]) -> Float[Tensor, "row d_out"]:
    """Return rows times a matrix."""
    if not blocks_pay(rows, matrix):
        return rows @ matrix
    d_out = matrix.shape[1]
    whole = d_out - d_out % BLOCK
    blocks = matrix[:, :whole].T.unflatten(0, (-1, BLOCK)).transpose(1, 2)
    made = torch.bmm(rows.expand(len(blocks), -1, -1), blocks).transpose(0, 1).flatten(1)
    return made if whole == d_out else torch.cat([made, rows @ matrix[:, whole:]], dim=1)
