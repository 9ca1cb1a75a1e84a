"""What a norm scales by, measured on what went in and what came out: w, 1 + w, or nothing."""

from typing import Any, NamedTuple

from torch import Tensor, nn


class Gain(NamedTuple):
    """What scales an input: `weight + offset` of the norm at `module`; nothing where `module` is None.

    `centred` says whether the input's mean is taken away first (LayerNorm), `eps` what is added to the mean square.
    """

    module: str | None
    offset: float = 0.0
    centred: bool = False
    eps: float = 0.0


class Unknown(NamedTuple):
    """A part that has none of the known meanings, with the reason."""

    reason: str


def is_norm(module: nn.Module) -> bool:
    """Whether a module may be a norm: one of TransformerLens's, or a module with one vector of weights and no parts."""
    own = [parameter for name, parameter in module._parameters.items() if name in ("w", "weight")]
    alone = not module._modules and len(own) == 1 and own[0] is not None and own[0].ndim == 1
    return hasattr(module, "hook_normalized") or alone


def norm_weight(norm: Any) -> Tensor | None:
    """Return the weight that a norm module holds, as it is stored; None where it holds none."""
    return _own(norm, "w", "weight")


def norm_bias(norm: Any) -> Tensor | None:
    """Return what a norm module adds; None where it adds nothing."""
    return _own(norm, "b", "bias")


def _own(norm: Any, *names: str) -> Tensor | None:
    # a bridge's norm answers for the module it wraps, which may have none
    owners = [norm, getattr(norm, "original_component", None)]
    found = (owner._parameters.get(name) for owner in owners if isinstance(owner, nn.Module) for name in names)
    return next((value for value in found if value is not None), None)


def scale_of(path: str, norm: nn.Module, read: Tensor, made: Tensor, close: float) -> Gain | Unknown:
    """Return by what a norm scales: of w, 1 + w and 1, with and without centring, that which explains its output."""
    x, y, weight, bias = read.double(), made.double(), norm_weight(norm), norm_bias(norm)
    candidates = [(0.0, weight.double()), (1.0, 1 + weight.double())] if weight is not None else [(0.0, x.new_ones(()))]
    shift = 0.0 if bias is None else bias.double()
    found = []
    for eps in _epsilons(norm):
        for is_centred, centred in enumerate((x, x - x.mean(dim=-1, keepdim=True))):
            normalised = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
            for offset, gain in candidates:
                if gain.ndim and gain.shape != x.shape[-1:]:
                    continue
                error = float((normalised * gain + shift - y).abs().max())
                found.append((error, offset, bool(is_centred), eps))
    error, offset, is_centred, eps = min(found, default=(float("inf"), 0.0, False, 0.0))
    if error > close * float(y.abs().max()):
        return Unknown(f"the norm at {path} scales neither by its weight nor by 1 + its weight")
    return Gain(path if weight is not None else None, offset, is_centred, eps)


def _epsilons(norm: Any) -> list[float]:
    owners = (
        norm,
        getattr(norm, "original_component", None),
        getattr(norm, "cfg", None),
        getattr(norm, "config", None),
    )
    values = {getattr(o, n, None) for o in owners for n in ("eps", "variance_epsilon", "norm_eps")}
    return [float(value) for value in values if isinstance(value, float | int)] or [1e-5]
