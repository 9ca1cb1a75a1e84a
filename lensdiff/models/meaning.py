"""What the parts of a wrapped model mean, measured on the model itself and never taken from an architecture's name.

One forward pass over a few tokens is recorded at the modules and hook points of every layer. From it follow:

    gains     which norm's output attention and MLP read, and whether that norm scales by w, by 1 + w or not at all:
              y = x^ (w + offset) + b, with x^ the normalised input; no gain where the stream itself is read (OLMo 2)
    matrices  whether a weight takes what its layer reads to what the layer makes of it: (x_i - x_0) W = q_i - q_0
    biases    what is added behind it; positions: what is added to the embedding
    points    where the stream, its parts, scores, pattern and z can be read (see `points`)
    logits    whether they are h W_U + b, a multiple of it (Granite, Cohere), or its soft cap (Gemma 2)

What fits none of the meanings is kept as a reason, and reading it is refused in that sentence. What a wrapper does not
pass through a module or hook point cannot be measured and counts as unknown too.

Memory: the recorded activations of a few tokens in every layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from lensdiff.models.parts import LAYER_GAINS, MATRICES, BiasName, GainName, MatrixName
from lensdiff.models.points import Point, Site, attention_sites, stream_candidates, stream_sites
from lensdiff.models.tape import CLOSE, Tape, probe, recorded, same
from lensdiff.models.wrappers import Wrapper


class Gain(NamedTuple):
    """What scales an input: `weight + offset` of the norm at `module`; nothing where `module` is None."""

    module: str | None
    offset: float = 0.0


class Unknown(NamedTuple):
    """A part that has none of the known meanings, with the reason."""

    reason: str


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
        points: where each point is, or why it cannot be read.
    """

    gains: dict[tuple[GainName, int], Gain | Unknown] = field(default_factory=dict)
    matrices: dict[tuple[MatrixName, int], str] = field(default_factory=dict)
    biases: dict[tuple[BiasName, int], str] = field(default_factory=dict)
    positions: str = ""
    points: dict[Point, Site | Unknown] = field(default_factory=dict)
    logits: LogitMap | Unknown = IDENTITY

    def shared(self, layer: int) -> bool:
        """Whether attention and MLP of a layer read the output of one norm (parallel branches)."""
        mine, theirs = self.gains[("attn", layer)], self.gains[("mlp", layer)]
        return isinstance(mine, Gain) and mine.module is not None and mine == theirs


def norm_weight(norm: Any) -> Tensor | None:
    """Return the weight that a norm module holds, as it is stored; None where it holds none."""
    return _own(norm, "w", "weight")


def _own(norm: Any, *names: str) -> Tensor | None:
    # a bridge's norm answers for the module it wraps, which may have none
    owners = [norm, getattr(norm, "original_component", None)]
    found = (owner._parameters.get(name) for owner in owners if isinstance(owner, nn.Module) for name in names)
    return next((value for value in found if value is not None), None)


def measure(wrapper: Wrapper) -> Meaning:
    """Return the meanings of a wrapped model, by one forward pass over a few tokens."""
    model, meaning, sizes = wrapper.model, Meaning(), wrapper.sizes()
    close = CLOSE[sizes.dtype]
    norms = {id(module): (path, module) for path, module in model.named_modules() if is_norm(module)}
    with torch.no_grad(), wrapper.lock, recorded(recorded_modules(wrapper)) as tape, wrapper.precision():
        logits = wrapper(probe(sizes.d_vocab, sizes.n_ctx, sizes.device))
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
            meaning.points |= {Point(name, layer): site for name, site in record.points().items()}  # pyright: ignore[reportArgumentType]
        meaning.gains[("final", 0)] = _final_gain(model, tape, norms, close)
        meaning.points[Point("embed")] = Site(wrapper.embedding)
        meaning.positions = _wrong_positions(wrapper, tape, meaning, close)
        meaning.logits = _logit_map(wrapper, tape.read(model.unembed), logits, close)
    return meaning


def recorded_modules(wrapper: Wrapper) -> Iterable[nn.Module]:
    """Return the modules and hook points whose inputs and outputs tell what a model's parts mean."""
    model = wrapper.model
    found = [model.unembed, wrapper.embedding, *(module for module in model.modules() if is_norm(module))]
    for block in model.blocks:
        attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        found += [block, attn, mlp, *attention_sites(block).values()]
        found += [module for modules in stream_candidates(block, []).values() for module in modules]
        found += [getattr(attn, name, None) for name in ("hook_q", "hook_k", "hook_v", "q", "k", "v")]
        found += [getattr(mlp, name, None) for name in ("hook_pre", "hook_pre_linear", "hook_post", "in", "gate")]
    return [module for module in found if isinstance(module, nn.Module)]


def is_norm(module: nn.Module) -> bool:
    """Whether a module may be a norm: one of TransformerLens's, or a module with one vector of weights and no parts."""
    own = [parameter for name, parameter in module._parameters.items() if name in ("w", "weight")]
    alone = not module._modules and len(own) == 1 and own[0] is not None and own[0].ndim == 1
    return hasattr(module, "hook_normalized") or alone


class BlockRecord:
    """What was recorded of one block."""

    def __init__(self, wrapper: Wrapper, layer: int, tape: Tape, norms: dict[int, tuple[str, nn.Module]]):
        self.wrapper, self.layer, self.tape = wrapper, layer, tape
        self.block = wrapper.model.blocks[layer]
        self.close = CLOSE[wrapper.sizes().dtype]
        self.attn, self.mlp = getattr(self.block, "attn", None), getattr(self.block, "mlp", None)
        inside = {id(module) for module in self.block.modules()}
        self.norms = {key: value for key, value in norms.items() if key in inside and key in tape.outs}
        self.entered = tape.read(self.block)

    def _made(self, owner: Any, *names: str) -> Tensor | None:
        found = (self.tape.made(getattr(owner, name, None)) for name in names)
        return next((value for value in found if value is not None), None)

    def _read(self, owner: Any, *names: str) -> Tensor | None:
        found = (self.tape.read(getattr(owner, name, None)) for name in names)
        return next((value for value in found if value is not None), None)

    def read_by(self, name: str) -> Tensor | None:
        """Return what attention or the MLP read."""
        if name == "attn":
            read = self.tape.read(self.attn)
            return self._read(self.attn, "q") if read is None else read
        read = self.tape.read(self.mlp)
        return self._read(self.mlp, "in", "gate") if read is None else read

    def norm_before(self, name: str) -> int | None:
        """Return the identity of the norm whose output attention or the MLP read, or None."""
        read = self.read_by(name)
        return next((key for key in self.norms if same(self.tape.outs[key], read, self.close)), None)

    def gain(self, name: GainName) -> Gain | Unknown:
        """Return what scales the input of attention or MLP, or the queries and keys."""
        if name in ("q_norm", "k_norm"):
            return self._head_gain(name)
        read = self.read_by(name)
        if read is None or self.entered is None:
            return Unknown(f"what {name} reads passes through no module")
        key = self.norm_before(name)
        if key is not None:
            return _scale(*self.norms[key], self.tape.ins[key], read, self.close)
        return Gain(None) if self._is_stream(read) else Unknown(f"what {name} reads is neither the stream nor its norm")

    def _head_gain(self, name: str) -> Gain | Unknown:
        norm = getattr(self.attn, name, None)
        if not isinstance(norm, nn.Module):
            return Gain(None)
        keys = [id(norm), id(getattr(norm, "original_component", None))]  # either may be what is called
        key = next((key for key in keys if key in self.norms), None)
        if key is None:
            return Unknown(f"{name} is no norm that can be measured")
        return _scale(*self.norms[key], self.tape.ins[key], self.tape.outs[key], self.close)

    def _is_stream(self, value: Tensor) -> bool:
        """Whether a value is what entered the block, with nothing or (a multiple of) one part's output added."""
        assert self.entered is not None
        if value.shape != self.entered.shape:
            return False
        added = (value - self.entered).double()
        if float(added.abs().max()) <= self.close * float(value.abs().max()):
            return True
        outs = [self.tape.made(self.attn), *(self.tape.outs[key] for key in self.norms)]
        return any(
            out is not None and out.shape == added.shape and _parallel(out.double(), added, self.close) for out in outs
        )

    def wrong_matrix(self, name: MatrixName) -> str:
        """Return why a matrix does not take what is read to what is made of it; an empty text where it does."""
        try:
            weight = self.wrapper.matrix(self.layer, name)
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            return f"transformer-lens cannot give it: {str(error).strip().splitlines()[0] if str(error) else error!r}"
        if weight is None:
            return ""
        read, made = self._around(name)
        if read is None or made is None:
            return "what it reads or writes passes through no hook point"
        flat, read, made = _flat(weight, name), _rows(read).double(), _rows(made).double()
        if read.shape[-1] != flat.shape[0] or made.shape[-1] != flat.shape[1]:
            return f"it has the shape {tuple(weight.shape)}, but maps {read.shape[-1]} to {made.shape[-1]} numbers"
        # differences of positions: a bias cancels
        got, expected = (read[1:] - read[:1]) @ flat.double(), made[1:] - made[:1]
        if len(read) > 1 and not same(got, expected, self.close):
            return "multiplied by it, what is read does not become what is written"
        return ""

    def wrong_bias(self, name: MatrixName) -> str:
        """Return why the bias that goes with a (right) matrix is not what is added behind it."""
        weight = self.wrapper.matrix(self.layer, name)
        if weight is None:
            return ""
        bias = self.wrapper.bias(self.layer, f"b{name[1:]}")  # pyright: ignore[reportArgumentType]
        read, made = self._around(name)
        assert read is not None
        assert made is not None
        mapped, made = _rows(read).double() @ _flat(weight, name).double(), _rows(made).double()
        added = mapped if bias is None else mapped + bias.double().flatten()
        return "" if same(added, made, self.close) else "what is added behind its matrix is something else"

    def _around(self, name: MatrixName) -> tuple[Tensor | None, Tensor | None]:
        attn, mlp = self.attn, self.mlp
        if name in ("W_Q", "W_K", "W_V"):
            letter = name[-1].lower()
            return self.read_by("attn"), self._made(attn, f"hook_{letter}", letter)
        if name == "W_O":
            made = self._made(attn, "o")
            return self._made(attn, "hook_z"), self._made(self.block, "hook_attn_out") if made is None else made
        if name == "W_out":
            read, made = self._read(mlp, "out"), self._made(mlp, "out")
            return (self._made(mlp, "hook_post"), self.tape.made(mlp)) if made is None else (read, made)
        part = self._made(mlp, "in" if name == "W_in" else "gate")
        if part is None:  # a HookedTransformer: the gate's output is hook_pre where there is a gate
            gated = self.wrapper.matrix(self.layer, "W_gate") is not None
            part = self._made(mlp, "hook_pre_linear" if gated and name == "W_in" else "hook_pre")
        return self.read_by("mlp"), part

    def points(self) -> dict[str, Site | Unknown]:
        """Return, by name, where each point of the block is, or why it cannot be read."""
        candidates = stream_candidates(self.block, [norm for _, norm in self.norms.values()])
        found: dict[str, Site | Unknown] = dict(stream_sites(candidates, self.tape, self.close))
        for name in ("resid_pre", "resid_post"):
            found.setdefault(name, Unknown(f"{name} passes through no hook point"))
        for name in ("attn_out", "mlp_out"):
            found.setdefault(name, Unknown("no two hook points hold what attention and MLP add to the stream"))
        sites = attention_sites(self.block)
        reasons = {
            "attn_scores": self.wrong_scores(),
            "pattern": self.wrong_pattern(),
            "z": self.wrong_matrix("W_O") if "z" in sites else "the model has no hook_z",
        }
        for name, why in reasons.items():
            found[name] = Unknown(why) if why else Site(sites[name])
        added = found["attn_out"]
        mid = added.reason if isinstance(added, Unknown) else self._wrong_mid(found["resid_pre"], added)
        found["resid_mid"] = Unknown(mid) if mid else added
        return found

    def _wrong_mid(self, entered: Site | Unknown, added: Site) -> str:
        key = self.norm_before("mlp")
        read = self.read_by("mlp") if key is None else self.tape.ins[key]
        if isinstance(entered, Unknown):
            return entered.reason
        before, part = entered.value(self.tape), added.value(self.tape)
        if read is None or before is None or part is None or read.numel() != before.numel():
            return "what the MLP reads passes through no module"
        middle = before.double() + part.double().reshape(before.shape)
        if same(read.double().reshape(before.shape), middle, self.close):
            return ""
        return "its MLP does not read the stream behind its attention (parallel blocks have no middle)"

    def wrong_scores(self) -> str:
        """Return why hook_attn_scores does not hold what softmax makes the pattern of."""
        scores, pattern = self._made(self.attn, "hook_attn_scores"), self._made(self.attn, "hook_pattern")
        if scores is None or pattern is None:
            return "the model does not pass through hook_attn_scores and hook_pattern"
        right = same(scores.float().softmax(dim=-1), pattern.float(), self.close)
        return "" if right else "the softmax of its hook_attn_scores is not its attention pattern"

    def wrong_pattern(self) -> str:
        """Return why hook_pattern does not hold how z is mixed from the values."""
        pattern, v, z = (self._made(self.attn, name) for name in ("hook_pattern", "hook_v", "hook_z"))
        if pattern is None or v is None or z is None:
            return "the model does not pass through hook_pattern, hook_v and hook_z"
        if pattern.ndim != 4 or not same(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]), self.close):
            return "the rows of its hook_pattern do not sum to 1"
        n_heads = pattern.shape[1]
        d_head = _rows(z).shape[-1] // n_heads
        v = rearrange(_rows(v), "pos (kv d_head) -> kv pos d_head", d_head=d_head)
        v = repeat(v, "kv pos d_head -> (kv group) pos d_head", group=n_heads // v.shape[0])
        mixed = rearrange(pattern[0].to(v.dtype) @ v, "head_index pos d_head -> pos (head_index d_head)")
        return "" if same(mixed, _rows(z), self.close) else "its hook_pattern times hook_v is not hook_z"


def _rows(value: Tensor) -> Tensor:
    # heads side by side; some models flatten batch and position into one axis
    return value if value.ndim == 2 else value.flatten(2)[0]


def _flat(weight: Tensor, name: MatrixName) -> Tensor:
    if name in ("W_Q", "W_K", "W_V"):
        return rearrange(weight, "head_index d_model d_head -> d_model (head_index d_head)")
    return weight.flatten(0, 1) if name == "W_O" else weight


def _parallel(a: Tensor, b: Tensor, close: float) -> bool:
    along = (a * b).sum() / (a * a).sum().clamp(min=1e-30)
    return same(along * a, b, close)


def _scale(path: str, norm: nn.Module, read: Tensor, made: Tensor, close: float) -> Gain | Unknown:
    """Return by what a norm scales: of w, 1 + w and 1, with and without centring, that which explains its output."""
    x, y, weight, bias = read.double(), made.double(), norm_weight(norm), _own(norm, "b", "bias")
    candidates = [(0.0, weight.double()), (1.0, 1 + weight.double())] if weight is not None else [(0.0, x.new_ones(()))]
    shift = 0.0 if bias is None else bias.double()
    found = []
    for eps in _epsilons(norm):
        for centred in (x, x - x.mean(dim=-1, keepdim=True)):
            normalised = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
            for offset, gain in candidates:
                if gain.ndim and gain.shape != x.shape[-1:]:
                    continue
                found.append((float((normalised * gain + shift - y).abs().max()), offset))
    error, offset = min(found, default=(float("inf"), 0.0))
    if error > close * float(y.abs().max()):
        return Unknown(f"the norm at {path} scales neither by its weight nor by 1 + its weight")
    return Gain(path if weight is not None else None, offset)


def _epsilons(norm: Any) -> list[float]:
    owners = (
        norm,
        getattr(norm, "original_component", None),
        getattr(norm, "cfg", None),
        getattr(norm, "config", None),
    )
    values = {getattr(o, n, None) for o in owners for n in ("eps", "variance_epsilon", "norm_eps")}
    return [float(value) for value in values if isinstance(value, float | int)] or [1e-5]


def _final_gain(model: Any, tape: Tape, norms: dict[int, tuple[str, nn.Module]], close: float) -> Gain | Unknown:
    read = tape.read(model.unembed)
    for key, (path, norm) in norms.items():
        if key in tape.outs and same(tape.outs[key], read, close):
            return _scale(path, norm, tape.ins[key], tape.outs[key], close)
    if same(tape.made(model.blocks[-1]), read, close):
        return Gain(None)
    return Unknown("what the unembedding reads is neither the stream nor its norm")


def _wrong_positions(wrapper: Wrapper, tape: Tape, meaning: Meaning, close: float) -> str:
    positions, site = wrapper.W_pos(), meaning.points[Point("resid_pre", 0)]
    before, entered = tape.made(wrapper.embedding), None if isinstance(site, Unknown) else site.value(tape)
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
