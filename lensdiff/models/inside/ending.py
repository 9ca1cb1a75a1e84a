"""What a model makes of a stream that leaves its last block: no formula of ours, the rest of the model is run.

Each stream is a text of one token, whose last block is made to leave it: nothing behind that block looks at other
positions. What the block computes itself is thrown away.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.points import Point

ROWS = 1024  # streams that go through the rest of the model at once


def behind_last(
    forward: Forward,
    streams: Float[Tensor, "row d_model"],
    read: Literal["final", "logits"] = "final",
    *,
    at_once: int = ROWS,
) -> Iterator[Float[Tensor, "some_row _"]]:
    """Yield what the unembedding would read if these streams left the last layer, or the logits; rows in their order.

    Args:
        at_once: rows that go through the rest of the model together.

    Raises:
        InputError: the model's last stream cannot be written.
    """
    sizes, point = forward.sizes, Point(read)
    before, after = (Point(name, sizes.n_layers - 1) for name in ("resid_pre", "resid_post"))
    for some in streams.split(at_once):
        given = some.to(sizes.device, sizes.dtype)[:, None]
        write = dict.fromkeys((before, after), lambda _, given=given: given)
        tokens = torch.zeros(len(some), 1, dtype=torch.int64)
        found = forward.run(tokens, read=[point], write=write, start=before, until=point)
        yield found[point][:, 0]
