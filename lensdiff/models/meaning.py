"""What the parts of a wrapped model mean, measured on the model itself and never taken from an architecture's name.

One forward pass over a few tokens is recorded at the modules and hook points of every layer. From it follow:

    gains     which norm's output attention and MLP read, and whether that norm scales by w, by 1 + w or not at all:
              y = x^ (w + offset) + b, with x^ the normalised input; no gain where the stream itself is read (OLMo 2)
    matrices  whether a weight takes what its layer reads to what the layer makes of it: (x_i - x_0) W = q_i - q_0
    scores    whether softmax(scores) is the pattern; pattern: whether its rows sum to 1 and pattern v is z
    logits    whether they are h W_U + b, a multiple of it (Granite, Cohere), or its soft cap (Gemma 2)

What fits none of the meanings is kept as a reason, and reading it is refused in that sentence. What a wrapper does not
pass through a module or hook point cannot be measured and counts as unknown too.

Memory: the recorded activations of a few tokens in every layer.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from lensdiff.models.weights import MATRICES, GainName, MatrixName

PROBE_TOKENS = 8
# largest difference, as a share of the largest value, that rounding explains
CLOSE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}


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
        matrices: why a matrix does not do what its name says; those that do are not listed.
        scores, pattern: why the hook of that name does not hold what it should; an empty text where it does.
    """

    gains: dict[tuple[GainName, int], Gain | Unknown] = field(default_factory=dict)
    matrices: dict[tuple[MatrixName, int], str] = field(default_factory=dict)
    scores: dict[int, str] = field(default_factory=dict)
    pattern: dict[int, str] = field(default_factory=dict)
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


def measure(view: Any) -> Meaning:
    """Return the meanings of a view's model, by one forward pass over a few tokens."""
    model, meaning = view.model, Meaning()
    count = min(PROBE_TOKENS, view.n_ctx)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(view.d_vocab, (1, count), generator=generator).to(view.device)
    with torch.no_grad(), _recorded(model) as tape:
        logits = view.logits(tokens)
        close = CLOSE[view.dtype]
        for layer, block in enumerate(model.blocks):
            record = _Block(block, tape, close)
            for name in ("attn", "mlp"):
                meaning.gains[(name, layer)] = record.gain(name)
            for name in ("q_norm", "k_norm"):
                meaning.gains[(name, layer)] = record.head_gain(name)
            meaning.matrices |= {(name, layer): why for name in MATRICES if (why := record.wrong_matrix(view, name))}
            meaning.scores[layer] = record.wrong_scores()
            meaning.pattern[layer] = record.wrong_pattern(view.n_heads)
        meaning.gains[("final", 0)] = _final_gain(model, tape, close)
        meaning.logits = _logit_map(view, tape.ins.get(id(model.unembed)), logits, close)
    return meaning


@dataclass
class _Tape:
    """First input and output of each recorded module, by its identity; paths of the norms."""

    ins: dict[int, Tensor] = field(default_factory=dict)
    outs: dict[int, Tensor] = field(default_factory=dict)
    norms: dict[int, tuple[str, nn.Module]] = field(default_factory=dict)


def is_norm(module: nn.Module) -> bool:
    """Whether a module may be a norm: one of TransformerLens's, or a module with one vector of weights and no parts."""
    own = [parameter for name, parameter in module._parameters.items() if name in ("w", "weight")]
    alone = not module._modules and len(own) == 1 and own[0] is not None and own[0].ndim == 1
    return hasattr(module, "hook_normalized") or alone


@contextmanager
def _recorded(model: Any) -> Iterator[_Tape]:
    tape, wanted = _Tape(), {id(model.unembed): model.unembed}
    for path, module in model.named_modules():
        if is_norm(module):
            tape.norms[id(module)] = path, module
            wanted[id(module)] = module
    for block in model.blocks:
        wanted |= {id(module): module for module in _parts(block)}

    def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        into, made = _first_tensor((*args, *kwargs.values())), _first_tensor((out,))
        if into is not None and made is not None:
            tape.ins[id(module)], tape.outs[id(module)] = into, made

    with ExitStack() as stack:
        for module in wanted.values():
            stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        yield tape


def _first_tensor(values: tuple) -> Tensor | None:
    for value in values:
        if isinstance(value, tuple | list):
            value = _first_tensor(tuple(value))
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


_POINTS = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_attn_scores", "hook_pattern")
_MLP_POINTS = ("hook_pre", "hook_pre_linear", "hook_post")


def _parts(block: Any) -> list[nn.Module]:
    attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    found = [block, attn, mlp, getattr(block, "hook_attn_out", None), getattr(block, "hook_mlp_out", None)]
    found += [getattr(attn, name, None) for name in (*_POINTS, "q", "k", "v", "o")]
    found += [getattr(mlp, name, None) for name in (*_MLP_POINTS, "in", "gate", "out")]
    return [module for module in found if isinstance(module, nn.Module)]


class _Block:
    """What was recorded of one block."""

    def __init__(self, block: Any, tape: _Tape, close: float):
        self.block, self.tape, self.close = block, tape, close
        self.attn, self.mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        inside = {id(module) for module in block.modules()}
        self.norms = {key: value for key, value in tape.norms.items() if key in inside and key in tape.outs}
        self.entered = tape.ins.get(id(block))

    def _out(self, owner: Any, *names: str) -> Tensor | None:
        found = (self.tape.outs.get(id(getattr(owner, name, None))) for name in names)
        return next((value for value in found if value is not None), None)

    def _in(self, owner: Any, *names: str) -> Tensor | None:
        found = (self.tape.ins.get(id(getattr(owner, name, None))) for name in names)
        return next((value for value in found if value is not None), None)

    def read_by(self, name: str) -> Tensor | None:
        """Return what attention or the MLP read."""
        if name == "attn":
            read = self.tape.ins.get(id(self.attn))
            return self._in(self.attn, "q") if read is None else read
        read = self.tape.ins.get(id(self.mlp))
        return self._in(self.mlp, "in", "gate") if read is None else read

    def gain(self, name: str) -> Gain | Unknown:
        read = self.read_by(name)
        if read is None or self.entered is None:
            return Unknown(f"what {name} reads passes through no module")
        for key, (path, norm) in self.norms.items():
            if _same(self.tape.outs[key], read, self.close):
                return _scale(path, norm, self.tape.ins[key], read, self.close)
        return Gain(None) if self._is_stream(read) else Unknown(f"what {name} reads is neither the stream nor its norm")

    def head_gain(self, name: str) -> Gain | Unknown:
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
        outs = [self.tape.outs.get(id(self.attn)), *(self.tape.outs[key] for key in self.norms)]
        return any(
            out is not None and out.shape == added.shape and _parallel(out.double(), added, self.close) for out in outs
        )

    def wrong_matrix(self, view: Any, name: MatrixName) -> str:
        """Return why a matrix does not take what is read to what is made of it; an empty text where it does."""
        layer = next(i for i, block in enumerate(view.model.blocks) if block is self.block)
        try:
            weight = view.stored_matrix(layer, name)
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            return f"transformer-lens cannot give it: {str(error).strip().splitlines()[0] if str(error) else error!r}"
        if weight is None:
            return ""
        read, made = self._around(name, gated=view.stored_matrix(layer, "W_gate") is not None)
        if read is None or made is None:
            return "what it reads or writes passes through no hook point"
        flat = _flat(weight, name)
        read, made = (_rows(x).double() for x in (read, made))
        if read.shape[-1] != flat.shape[0] or made.shape[-1] != flat.shape[1]:
            return f"it has the shape {tuple(weight.shape)}, but maps {read.shape[-1]} to {made.shape[-1]} numbers"
        # differences of positions: a bias cancels
        got, expected = (read[1:] - read[:1]) @ flat.double(), made[1:] - made[:1]
        if len(read) > 1 and not _same(got, expected, self.close):
            return "multiplied by it, what is read does not become what is written"
        return ""

    def _around(self, name: MatrixName, *, gated: bool) -> tuple[Tensor | None, Tensor | None]:
        attn, mlp = self.attn, self.mlp
        if name in ("W_Q", "W_K", "W_V"):
            letter = name[-1].lower()
            return self.read_by("attn"), self._out(attn, f"hook_{letter}", letter)
        if name == "W_O":
            made = self._out(attn, "o")
            return self._out(attn, "hook_z"), self._out(self.block, "hook_attn_out") if made is None else made
        if name == "W_out":
            read, made = self._in(mlp, "out"), self._out(mlp, "out")
            return (self._out(mlp, "hook_post"), self.tape.outs.get(id(mlp))) if made is None else (read, made)
        part = self._out(mlp, "in" if name == "W_in" else "gate")
        if part is None:  # a HookedTransformer: the gate's output is hook_pre where there is a gate
            part = self._out(mlp, "hook_pre_linear" if gated and name == "W_in" else "hook_pre")
        return self.read_by("mlp"), part

    def wrong_scores(self) -> str:
        scores, pattern = self._out(self.attn, "hook_attn_scores"), self._out(self.attn, "hook_pattern")
        if scores is None or pattern is None:
            return "the model does not pass through hook_attn_scores and hook_pattern"
        same = scores.shape == pattern.shape and _same(scores.float().softmax(dim=-1), pattern.float(), self.close)
        return "" if same else "the softmax of its hook_attn_scores is not its attention pattern"

    def wrong_pattern(self, n_heads: int) -> str:
        pattern, v, z = (self._out(self.attn, name) for name in ("hook_pattern", "hook_v", "hook_z"))
        if pattern is None:
            return "the model does not pass through hook_pattern"
        if pattern.ndim != 4 or not _same(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]), self.close):
            return "the rows of its hook_pattern do not sum to 1"
        if v is None or z is None:
            return ""
        d_head = z.flatten(2).shape[-1] // n_heads
        v = rearrange(v.flatten(2)[0], "pos (kv d_head) -> kv pos d_head", d_head=d_head)
        v = repeat(v, "kv pos d_head -> (kv group) pos d_head", group=n_heads // v.shape[0])
        mixed = rearrange(pattern[0].to(v.dtype) @ v, "head_index pos d_head -> pos (head_index d_head)")
        return "" if _same(mixed, z.flatten(2)[0], self.close) else "its hook_pattern times hook_v is not hook_z"


def _rows(value: Tensor) -> Tensor:
    # heads side by side; some models flatten batch and position into one axis
    return value if value.ndim == 2 else value.flatten(2)[0]


def _flat(weight: Tensor, name: MatrixName) -> Tensor:
    if name in ("W_Q", "W_K", "W_V"):
        return rearrange(weight, "head_index d_model d_head -> d_model (head_index d_head)")
    return weight.flatten(0, 1) if name == "W_O" else weight


def _same(a: Tensor, b: Tensor, close: float) -> bool:
    if a.shape != b.shape:
        return False
    return float((a.double() - b.double()).abs().max()) <= close * max(float(b.abs().max()), 1e-30)


def _parallel(a: Tensor, b: Tensor, close: float) -> bool:
    along = (a * b).sum() / (a * a).sum().clamp(min=1e-30)
    return _same(along * a, b, close)


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


def _final_gain(model: Any, tape: _Tape, close: float) -> Gain | Unknown:
    read = tape.ins.get(id(model.unembed))
    for key, (path, norm) in tape.norms.items():
        if read is not None and key in tape.outs and _same(tape.outs[key], read, close):
            return _scale(path, norm, tape.ins[key], read, close)
    last = tape.outs.get(id(model.blocks[-1]))
    if read is not None and last is not None and _same(last, read, close):
        return Gain(None)
    return Unknown("what the unembedding reads is neither the stream nor its norm")


def _logit_map(view: Any, hidden: Tensor | None, logits: Tensor, close: float) -> LogitMap | Unknown:
    if hidden is None:
        return Unknown("the unembedding is no module that is passed through")
    raw, expected = view.unembedded(hidden).double(), logits.double()
    cap = view.info.final_soft_cap
    scale = float((raw * expected).sum() / (raw * raw).sum().clamp(min=1e-30))
    for candidate in (LogitMap(1.0, cap), LogitMap(), LogitMap(scale)):
        if _same(candidate(raw), expected, close):
            return candidate
    return Unknown("the logits are neither the unembedding's output, nor a multiple of it, nor its soft cap")
