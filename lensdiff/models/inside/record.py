"""What was recorded of one block in a short pass, and what follows from it for gains, matrices, biases and points."""

from collections.abc import Iterable
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from lensdiff.models.inside.norms import Gain, Unknown, is_norm, scale_of
from lensdiff.models.inside.parts import GainName, MatrixName
from lensdiff.models.inside.points import Site, attention_sites, stream_candidates, stream_sites
from lensdiff.models.inside.tape import CLOSE, Tape, same
from lensdiff.models.inside.wrappers import Wrapper
from lensdiff.results.memory import is_lack_of_memory


def recorded_modules(wrapper: Wrapper) -> Iterable[nn.Module]:
    """Return the modules and hook points whose inputs and outputs tell what a model's parts mean."""
    model = wrapper.model
    found = [model.unembed, *wrapper.embeddings, *(module for module in model.modules() if is_norm(module))]
    for block in model.blocks:
        attn, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        found += [block, attn, mlp, *attention_sites(block).values()]
        found += [module for modules in stream_candidates(block, []).values() for module in modules]
        found += [getattr(attn, name, None) for name in ("hook_q", "hook_k", "hook_v", "q", "k", "v")]
        found += [getattr(mlp, name, None) for name in ("hook_pre", "hook_pre_linear", "hook_post", "in", "gate")]
    return [module for module in found if isinstance(module, nn.Module)]


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
            return scale_of(*self.norms[key], self.tape.ins[key], read, self.close)
        return Gain(None) if self._is_stream(read) else Unknown(f"what {name} reads is neither the stream nor its norm")

    def post_norm(self, site: Site | Unknown) -> Gain | Unknown:
        """Return what scales a part's output behind its matrix, given where the part is added to the stream."""
        if isinstance(site, Unknown):
            return site
        made = self.tape.made(site.module)
        key = next((key for key in self.norms if same(self.tape.outs[key], made, self.close)), None)
        if key is None:
            return Gain(None)
        return scale_of(*self.norms[key], self.tape.ins[key], self.tape.outs[key], self.close)

    def _head_gain(self, name: str) -> Gain | Unknown:
        norm = getattr(self.attn, name, None)
        if not isinstance(norm, nn.Module):
            return Gain(None)
        keys = [id(norm), id(getattr(norm, "original_component", None))]  # either may be what is called
        key = next((key for key in keys if key in self.norms), None)
        if key is None:
            return Unknown(f"{name} is no norm that can be measured")
        return scale_of(*self.norms[key], self.tape.ins[key], self.tape.outs[key], self.close)

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
            if is_lack_of_memory(error):
                raise
            return f"transformer-lens cannot give it: {str(error).strip().split(chr(10), 1)[0] or repr(error)}"
        if weight is None:
            return ""
        read, made = self.around(name)
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
        read, made = self.around(name)
        assert read is not None
        assert made is not None
        mapped, made = _rows(read).double() @ _flat(weight, name).double(), _rows(made).double()
        added = mapped if bias is None else mapped + bias.double().flatten()
        return "" if same(added, made, self.close) else "what is added behind its matrix is something else"

    def around(self, name: MatrixName) -> tuple[Tensor | None, Tensor | None]:
        """Return what a matrix reads and what is made of it."""
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
        n_heads, v, z = pattern.shape[1], _rows(v), _rows(z)
        d_head = z.shape[-1] // n_heads
        n_kv = v.shape[-1] // d_head if d_head else 0
        if len(v) != len(z) or not n_kv or n_kv * d_head != v.shape[-1] or n_heads % n_kv:
            return "its hook_v holds no values that its hook_pattern could mix"
        v = rearrange(v, "pos (kv d_head) -> kv pos d_head", d_head=d_head)
        v = repeat(v, "kv pos d_head -> (kv group) pos d_head", group=n_heads // n_kv)
        mixed = rearrange(pattern[0].to(v.dtype) @ v, "head_index pos d_head -> pos (head_index d_head)")
        return "" if same(mixed, z, self.close) else "its hook_pattern times hook_v is not hook_z"


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
