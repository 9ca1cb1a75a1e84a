"""The places of a forward pass that can be read and written, and where a model has them.

Named as TransformerLens names them; shapes are the same in every model:

    embed          [batch pos d_model]   the embedding module's output, before positions and a norm behind it
    resid_pre      [batch pos d_model]   the stream that enters a block
    attn_out       [batch pos d_model]   what attention adds to the stream (behind a post-norm, with a multiplier)
    resid_mid      [batch pos d_model]   resid_pre + attn_out, in blocks whose MLP follows their attention
    mlp_out        [batch pos d_model]   what the MLP adds to the stream
    resid_post     [batch pos d_model]   the stream that leaves a block
    attn_scores    [batch head_index query_pos key_pos]   before softmax: scaled, soft-capped, masked
    pattern        [batch head_index query_pos key_pos]   behind softmax
    z              [batch pos head_index d_head]          pattern times values, before W_O
    final          [batch pos d_model]   the unembedding's input
    logits         [batch pos d_vocab]   scale and soft cap included

A hook point is taken for one of these only if a recorded pass shows that it holds it: the two parts add up to the
stream, softmax(scores) is the pattern, z W_O is what attention's projection makes. It is written only if a second pass
with changed values shows that what must follow from them does. What fails is refused by name.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from lensdiff.models.inside.tape import Tape, same

PointName = Literal[
    "embed",
    "resid_pre",
    "attn_out",
    "resid_mid",
    "mlp_out",
    "resid_post",
    "attn_scores",
    "pattern",
    "z",
    "final",
    "logits",
]
POINTS: tuple[str, ...] = get_args(PointName)
WHOLE = ("embed", "final", "logits")  # of the model, not of a layer
_IN_ATTENTION = ("attn_scores", "pattern", "z")


class Point(NamedTuple):
    """A place of the forward pass; `layer` is None for "embed", "final" and "logits"."""

    name: PointName
    layer: int | None = None

    def __str__(self) -> str:
        if self.layer is None:
            return self.name
        return f"blocks.{self.layer}.{'attn.' if self.name in _IN_ATTENTION else ''}hook_{self.name}"


def entering(n_layers: int, layer: int) -> Point:
    """Return where the stream that enters a layer is; of layer `n_layers` the one that leaves the last."""
    return Point("resid_pre", layer) if layer < n_layers else Point("resid_post", n_layers - 1)


@dataclass(frozen=True)
class Site:
    """Where a point is: `scale` times what comes out of a module (Granite multiplies what is added to the stream)."""

    module: nn.Module
    scale: float = 1.0

    def value(self, tape: Tape) -> Tensor | None:
        """Return what a recorded pass had here."""
        made = tape.made(self.module)
        return made if made is None or self.scale == 1.0 else made * self.scale


def attention_sites(block: Any) -> dict[str, nn.Module]:
    """Return the hook points of scores, pattern and z that a block has."""
    found = {name: getattr(getattr(block, "attn", None), f"hook_{name}", None) for name in _IN_ATTENTION}
    return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


def stream_candidates(block: Any, norms: list[nn.Module]) -> dict[str, list[nn.Module]]:
    """Return, by point, the modules whose output may be the stream or a part that is added to it."""
    attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    found = {
        "resid_pre": [getattr(block, "hook_resid_pre", None), getattr(block, "hook_in", None)],
        "resid_post": [getattr(block, "hook_resid_post", None), getattr(block, "hook_out", None)],
        "attn_out": [getattr(block, "hook_attn_out", None), getattr(attn, "hook_out", None), getattr(attn, "o", None)],
        "mlp_out": [getattr(block, "hook_mlp_out", None), getattr(mlp, "hook_out", None), getattr(mlp, "out", None)],
    }
    return {
        name: [m for m in (*modules, *(norms if name.endswith("_out") else ())) if isinstance(m, nn.Module)]
        for name, modules in found.items()
    }


def stream_sites(candidates: dict[str, list[nn.Module]], tape: Tape, close: float) -> dict[str, Site]:
    """Return where the stream and its two parts are: resid_pre + attn_out + mlp_out = resid_post.

    Only the stream where no two candidates add up to it; nothing where the stream itself passes through no module.
    """
    seen = {name: [m for m in modules if tape.made(m) is not None] for name, modules in candidates.items()}
    if not seen["resid_pre"] or not seen["resid_post"]:
        return {}
    found = {name: Site(seen[name][0]) for name in ("resid_pre", "resid_post")}
    before, after = (tape.outs[id(site.module)] for site in found.values())
    for attn, mlp in product(seen["attn_out"], seen["mlp_out"]):
        parts = [tape.outs[id(module)] for module in (attn, mlp)]
        if attn is mlp or any(part.numel() != before.numel() for part in parts):
            continue
        added = parts[0].double().reshape(before.shape) + parts[1].double().reshape(before.shape)
        scale = float((added * (after - before)).sum() / (added * added).sum().clamp(min=1e-30))
        for factor in (1.0, scale):
            if adds_up(before, [part * factor for part in parts], after, close):
                return found | {"attn_out": Site(attn, factor), "mlp_out": Site(mlp, factor)}
    return found


def adds_up(before: Tensor, parts: list[Tensor | None], after: Tensor, close: float) -> bool:
    """Whether parts (some models flatten batch and positions) added to the stream make the stream behind the block."""
    total = before.double()
    for part in parts:
        if part is None or part.numel() != before.numel():
            return False
        total = total + part.double().reshape(before.shape)
    return same(total, after.double(), close)
