"""What a pass had of one block, in one shape whichever wrapper holds the model: rows [pos, _], heads [pos, head, _].

The angles of a rotary embedding are what attention is given beside the stream (two tensors of one shape), or the table
that it keeps itself.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lensdiff.models.inside.meaning import Meaning
from lensdiff.models.inside.parts import MatrixName
from lensdiff.models.inside.points import Point, Site
from lensdiff.models.inside.record import BlockRecord
from lensdiff.models.inside.wrappers import Wrapper

Angles = dict[int, tuple[Tensor, Tensor]]  # by layer: [pos, width], as the model has them


class NotSeen(Exception):
    """A pass did not come by something."""


class Seen(NamedTuple):
    """One block, from the stream that entered it to the one that left.

    Attributes:
        attn_read, attn_made: what W_Q reads and W_O makes, with its bias; mlp_read, mlp_made: W_in and W_out.
        attn_added, mlp_added: what is added to the stream, but for the multipliers `attn_scale`, `mlp_scale`.
        angles, scales: what rotates queries and keys, and by what the model may scale scores, as it has them.
    """

    entered: Float[Tensor, "pos d_model"]
    left: Float[Tensor, "pos d_model"]
    attn_read: Tensor
    q: Float[Tensor, "pos head_index d_head"]
    k: Float[Tensor, "pos kv d_head"]
    v: Float[Tensor, "pos kv d_head"]
    pattern: Float[Tensor, "head_index query_pos key_pos"]
    z: Float[Tensor, "pos z_out"]
    attn_made: Tensor
    attn_added: Tensor
    attn_scale: float
    mlp_read: Tensor
    pre: Float[Tensor, "pos d_mlp"]
    gate: Float[Tensor, "pos d_mlp"] | None
    post: Float[Tensor, "pos d_mlp"]
    mlp_made: Tensor
    mlp_added: Tensor
    mlp_scale: float
    angles: tuple[Tensor, Tensor] | None
    scales: tuple[float, ...]

    @property
    def attn_out(self) -> Float[Tensor, "pos d_model"]:
        """What attention adds to the stream."""
        return self.attn_added * self.attn_scale

    @property
    def mlp_out(self) -> Float[Tensor, "pos d_model"]:
        """What the MLP adds to the stream."""
        return self.mlp_added * self.mlp_scale


def see(record: BlockRecord, meaning: Meaning, angles: Angles) -> Seen:
    """Return what a recorded pass had of a block.

    Raises:
        NotSeen: something was not passed.
    """
    layer, tape = record.layer, record.tape

    def at(name: Any) -> tuple[Tensor, float]:
        site = meaning.points[Point(name, layer)]
        made = tape.made(site.module) if isinstance(site, Site) else None
        if made is None or not isinstance(site, Site):
            raise NotSeen(f"{name} of layer {layer}")
        return made[0] if name == "pattern" else rows(made), site.scale

    def around(name: MatrixName) -> tuple[Tensor, Tensor]:
        read, made = record.around(name)
        if read is None or made is None:
            raise NotSeen(f"{name} of layer {layer}")
        return rows(read), rows(made)

    sizes = record.wrapper.sizes()
    gated = record.wrapper.matrix(layer, "W_gate") is not None
    pattern, _ = at("pattern")
    (read, q), (_, k), (_, v), (z, attn_made) = (around(name) for name in ("W_Q", "W_K", "W_V", "W_O"))
    (mlp_read, pre), (post, mlp_made) = around("W_in"), around("W_out")
    (entered, _), (left, _), (attn, attn_scale), (mlp, mlp_scale) = (
        at(name) for name in ("resid_pre", "resid_post", "attn_out", "mlp_out")
    )
    # the heads' own width: that of the sizes may be the first layer's
    d_head = z.shape[-1] // pattern.shape[0]
    if any(value.shape[-1] % d_head for value in (q, k, v)) or d_head != sizes.d_head:
        raise NotSeen(f"heads of one width in layer {layer}")
    q, k, v = (rearrange(value, "pos (head d_head) -> pos head d_head", d_head=d_head) for value in (q, k, v))
    return Seen(
        *(entered, left, read, q, k, v, pattern, z, attn_made, attn, attn_scale),
        *(mlp_read, pre, around("W_gate")[1] if gated else None, post, mlp_made, mlp, mlp_scale),
        _first(angles.get(layer), len(q)),
        _stated_scales(record.attn, d_head),
    )


def _first(angles: tuple[Tensor, Tensor] | None, length: int) -> tuple[Tensor, Tensor] | None:
    return None if angles is None else (angles[0][:length], angles[1][:length])


def rows(value: Tensor) -> Tensor:
    """Return a value of one text by position, heads side by side; some models flatten batch and positions."""
    return value if value.ndim == 2 else value.flatten(2)[0]


def _stated_scales(attn: Any, d_head: int) -> tuple[float, ...]:
    divisor, factor = getattr(attn, "attn_scale", None), getattr(attn, "scaling", None)
    found = [d_head**-0.5]
    found += [1 / float(divisor)] if isinstance(divisor, float | int | Tensor) and float(divisor) else []
    found += [float(factor)] if isinstance(factor, float | int) else []
    return tuple(found)


@contextmanager
def angles_seen(wrapper: Wrapper) -> Iterator[Angles]:
    """Keep what attention is given of angles while the context lasts, or the table that it then has of its own."""
    found: Angles = {}

    def keep(layer: int, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, tuple | list) and len(value) == 2 and _are_angles(*value):
                found[layer] = (_by_position(value[0]), _by_position(value[1]))
                return

    with ExitStack() as stack:
        for layer, block in enumerate(wrapper.model.blocks):
            attn = getattr(block, "attn", None)
            if isinstance(attn, nn.Module):

                def before(module: nn.Module, args: tuple, kwargs: dict[str, Any], layer: int = layer) -> None:
                    keep(layer, (kwargs.get("position_embeddings"), *args, *kwargs.values()))

                def after(module: nn.Module, args: tuple, out: Any, layer: int = layer) -> None:
                    cos, sin = (getattr(module, f"rotary_{name}", None) for name in ("cos", "sin"))
                    if isinstance(cos, Tensor) and isinstance(sin, Tensor):
                        found.setdefault(layer, (cos, sin))

                stack.callback(attn.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(attn.register_forward_hook(after).remove)
        yield found


def _are_angles(a: Any, b: Any) -> bool:
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor)
    return tensors and a.is_floating_point() and a.shape == b.shape and a.ndim in (2, 3)


def _by_position(value: Tensor) -> Tensor:
    return value if value.ndim == 2 else value[0]
