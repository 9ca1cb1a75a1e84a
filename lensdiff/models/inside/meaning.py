"""What the parts of a wrapped model mean, measured on the model itself and never taken from an architecture's name.

One forward pass over a few tokens is recorded at the modules and hook points of every layer. From it follow:

    gains     which norm's output attention and MLP read, and whether that norm scales by w, by 1 + w or not at all:
              y = x^ (w + offset) + b, with x^ the normalised input; no gain where the stream itself is read (OLMo 2)
    matrices  whether a weight takes what its layer reads to what the layer makes of it: (x_i - x_0) W = q_i - q_0
    biases    what is added behind it; positions: what is added to the embedding
    posts     what scales attention's output on its way into the stream (the post-norm of Gemma 2, OLMo 2)
    points    where the stream, its parts, scores, pattern and z can be read (see `points`)
    logits    whether they are h W_U + b, a multiple of it (Granite, Cohere), or its soft cap (Gemma 2)

What fits none of the meanings is kept as a reason, and reading it is refused in that sentence. What a wrapper does not
pass through a module or hook point cannot be measured and counts as unknown too.

Memory: the recorded activations of a few tokens in every layer.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lensdiff.models.inside.norms import Gain, Unknown, is_norm, scale_of
from lensdiff.models.inside.parts import LAYER_GAINS, MATRICES, BiasName, GainName, MatrixName
from lensdiff.models.inside.points import Point, Site
from lensdiff.models.inside.record import BlockRecord, recorded_modules
from lensdiff.models.inside.tape import CLOSE, Tape, probe, recorded, same
from lensdiff.models.inside.wrappers import Wrapper


class LogitMap(NamedTuple):
    """From the unembedding's output to the logits: `scale` times it, then `cap` tanh(. / cap) where there is a cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, unembedded: Tensor) -> Tensor:
        logits = unembedded if self.scale == 1.0 else unembedded * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


IDENTITY = LogitMap()


@dataclass
class Meaning:
    """The measured meanings of one model, by layer.

    Attributes:
        gains: of what is read by "attn", "mlp" (by layer), and "final" (layer 0); of "q_norm" and "k_norm".
        matrices, biases: why one does not do what its name says; those that do are not listed.
        positions: why W_pos is not what is added to the embedding; an empty text where it is, or nothing is.
        posts: by layer, what scales what attention makes before it is added to the stream.
        points: where each point is, or why it cannot be read.
    """

    gains: dict[tuple[GainName, int], Gain | Unknown] = field(default_factory=dict)
    matrices: dict[tuple[MatrixName, int], str] = field(default_factory=dict)
    biases: dict[tuple[BiasName, int], str] = field(default_factory=dict)
    positions: str = ""
    posts: dict[int, Gain | Unknown] = field(default_factory=dict)
    points: dict[Point, Site | Unknown] = field(default_factory=dict)
    logits: LogitMap | Unknown = IDENTITY

    def shared(self, layer: int) -> bool:
        """Whether attention and MLP of a layer read the output of one norm (parallel branches)."""
        mine, theirs = self.gains[("attn", layer)], self.gains[("mlp", layer)]
        return isinstance(mine, Gain) and mine.module is not None and mine == theirs


def measure(wrapper: Wrapper, *, passing: AbstractContextManager[None] | None = None) -> Meaning:
    """Return the meanings of a wrapped model, by one forward pass over a few tokens.

    Args:
        passing: what the pass itself is made in: who knows what an error of the wrapper's means says it there.
    """
    model, meaning, sizes = wrapper.model, Meaning(), wrapper.sizes()
    close = CLOSE[sizes.dtype]
    norms = {id(module): (path, module) for path, module in model.named_modules() if is_norm(module)}
    with torch.no_grad(), wrapper.lock, recorded(recorded_modules(wrapper)) as tape, wrapper.precision():
        tokens = probe(sizes.d_vocab, sizes.n_ctx, sizes.device)
        with passing or nullcontext():
            logits = wrapper(tokens)
        for layer in range(sizes.n_layers):
            record = BlockRecord(wrapper, layer, tape, norms)
            for name in LAYER_GAINS:
                meaning.gains[(name, layer)] = record.gain(name)
            for name in MATRICES:
                if why := record.wrong_matrix(name):
                    meaning.matrices[(name, layer)] = why
                elif why := record.wrong_bias(name):
                    bias: BiasName = f"b{name[1:]}"  # pyright: ignore[reportAssignmentType]
                    meaning.biases[(bias, layer)] = why
            sites = record.points()
            meaning.posts[layer] = record.post_norm(sites["attn_out"])
            meaning.points |= {Point(name, layer): site for name, site in sites.items()}  # pyright: ignore[reportArgumentType]
        meaning.gains[("final", 0)] = _final_gain(model, tape, norms, close)
        embedded = next((module for module in wrapper.embeddings if tape.made(module) is not None), None)
        unknown = Unknown("the embedding passes through no module")
        meaning.points[Point("embed")] = unknown if embedded is None else Site(embedded)
        meaning.positions = _wrong_positions(wrapper, tape, meaning, close)
        meaning.logits = _logit_map(wrapper, tape.read(model.unembed), logits, close)
    return meaning


def _final_gain(model: Any, tape: Tape, norms: dict[int, tuple[str, nn.Module]], close: float) -> Gain | Unknown:
    read = tape.read(model.unembed)
    for key, (path, norm) in norms.items():
        if key in tape.outs and same(tape.outs[key], read, close):
            return scale_of(path, norm, tape.ins[key], tape.outs[key], close)
    if same(tape.made(model.blocks[-1]), read, close):
        return Gain(None)
    return Unknown("what the unembedding reads is neither the stream nor its norm")


def _wrong_positions(wrapper: Wrapper, tape: Tape, meaning: Meaning, close: float) -> str:
    positions, sites = wrapper.W_pos(), [meaning.points[Point("embed")], meaning.points[Point("resid_pre", 0)]]
    before, entered = (None if isinstance(site, Unknown) else site.value(tape) for site in sites)
    if positions is None:
        return ""
    if before is None or entered is None:
        return "what is added to the embedding passes through no hook point"
    right = same(before + positions[: before.shape[1]], entered, close)
    return "" if right else "its position embeddings are not what is added to its embedding"


def _logit_map(wrapper: Wrapper, hidden: Tensor | None, logits: Tensor, close: float) -> LogitMap | Unknown:
    if hidden is None:
        return Unknown("the unembedding is no module that is passed through")
    raw, expected = hidden @ wrapper.W_U, logits.double()
    raw = (raw if wrapper.b_U is None else raw + wrapper.b_U).double()
    scale = float((raw * expected).sum() / (raw * raw).sum().clamp(min=1e-30))
    for candidate in (LogitMap(1.0, wrapper.final_soft_cap()), IDENTITY, LogitMap(scale)):
        if same(candidate(raw), expected, close):
            return candidate
    return Unknown("the logits are neither the unembedding's output, nor a multiple of it, nor its soft cap")
