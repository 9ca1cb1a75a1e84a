"""Rotary scaling of a GGUF file, as `transformers` has it.

llama.cpp divides the rotary frequencies 1 / base^(2i / d_head) by one factor ("linear"), by a ramp of factors ("yarn"),
or by a factor for each pair of dimensions, given as a tensor: `rope_freqs.weight` (Llama 3.1 and 3.2), or a short and a
long one (Phi 3). Llama's are recognised by their formula, which a HookedTransformer can hold; any other factors
are given to `transformers` as they are ("longrope" with one list of factors for every length).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.models.loading.gguf_metadata import GGUFFile
from lensdiff.results import InputError

DEFAULT_BASE = 10000.0  # where a file names none, for llama.cpp
FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (FREQUENCIES, LONG, SHORT)  # factors, not weights
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192
LLAMA3_FACTORS = (8.0, 32.0)
SAME = 1e-6  # relative difference of factors that were stored in float32
YARN_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def settle_rope(config: Any, file: GGUFFile) -> None:
    """Put the file's rotary base and scaling into a config.

    Raises:
        InputError: the scaling is of an unknown type, or is not one that transformers has for the architecture.
    """
    base = float(file.take("rope.freq_base", DEFAULT_BASE))
    parameters: dict[str, Any] = {"rope_theta": base} | _scaling(file, base, config)
    turned = file.take("rope.dimension_count", config.head_dim)
    if file.architecture == "phi3":
        parameters["partial_rotary_factor"] = turned / config.head_dim
        config.partial_rotary_factor = turned / config.head_dim
    elif turned != config.head_dim:
        raise file.refuse("rope.dimension_count", f"expected all {config.head_dim} dimensions of a head")
    if file.architecture == "gemma3":  # local layers have a base of their own, and are never scaled
        local = {"rope_type": "default", "rope_theta": float(file.take("rope.freq_base_swa", DEFAULT_BASE))}
        parameters = {"full_attention": parameters, "sliding_attention": local}
    config.rope_parameters = parameters
    if LONG in file.tensors:  # Phi 3 keeps it beside the factors
        config.original_max_position_embeddings = parameters["original_max_position_embeddings"]


def _scaling(file: GGUFFile, base: float, config: Any) -> dict[str, Any]:
    by_tensor = [name for name in TENSORS if name in file.tensors]
    factor = float(file.take("rope.scaling.factor") or file.take("rope.scale_linear") or 1.0)
    kind = file.take("rope.scaling.type", "linear" if factor != 1.0 else "none")
    if kind == "longrope" and by_tensor == [LONG, SHORT]:
        kind = "none"
    if by_tensor and (kind != "none" or (FREQUENCIES in by_tensor) == (LONG in by_tensor)):
        raise InputError(
            f"{file.path.name} scales its rotary frequencies twice: by {', '.join(by_tensor)} and {kind!r}"
        )
    if LONG in by_tensor:
        return _long_and_short(file, config)
    if FREQUENCIES in by_tensor:
        context = file.take("rope.scaling.original_context_length")
        return _by_frequency(_factors(file, FREQUENCIES), base, config, context)
    if kind == "none":
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(file, factor, config)
    raise file.refuse("rope.scaling.type", "expected none, linear, yarn, or factors in a tensor")


def _factors(file: GGUFFile, name: str) -> Float[Tensor, " pair"]:
    return torch.from_numpy(file.tensors[name].data.copy()).double().flatten()


def _by_frequency(factors: Float[Tensor, " pair"], base: float, config: Any, context: int | None) -> dict[str, Any]:
    """Return the scaling that divides each frequency by its factor: Llama's formula if it gives them, else a list."""
    if bool((factors == 1).all()):
        return {"rope_type": "default"}
    for factor in (float(factors.max()), *LLAMA3_FACTORS):
        for original in (context or LLAMA3_CONTEXT, LLAMA3_CONTEXT):
            formula = llama3_factors(2 * len(factors), base, factor, original)
            if torch.allclose(formula, factors, rtol=SAME, atol=0.0):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": LLAMA3_LOW,
                    "high_freq_factor": LLAMA3_HIGH,
                    "original_max_position_embeddings": original,
                }
    whole = {"factor": 1.0, "attention_factor": 1.0, "original_max_position_embeddings": config.max_position_embeddings}
    listed = factors.tolist()
    return {"rope_type": "longrope", "short_factor": listed, "long_factor": listed} | whole


def llama3_factors(d_head: int, base: float, factor: float, original: int) -> Float[Tensor, " pair"]:
    """Return by what Llama 3.1 divides each rotary frequency: 1 for short wavelengths, `factor` for long ones.

    Between original / 4 and original positions a wavelength's frequency is mixed of both, linear in the turns that it
    makes over the original context.
    """
    wavelength = 2 * math.pi * base ** (torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    share = ((original / wavelength - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0.0, 1.0)
    return 1.0 / (share + (1.0 - share) / factor)


def _long_and_short(file: GGUFFile, config: Any) -> dict[str, Any]:
    original = file.take("rope.scaling.original_context_length", config.max_position_embeddings)
    return {
        "rope_type": "longrope",
        "short_factor": _factors(file, SHORT).tolist(),
        "long_factor": _factors(file, LONG).tolist(),
        "original_max_position_embeddings": original,
        "factor": config.max_position_embeddings / original,
        "attention_factor": float(file.take("rope.scaling.attn_factor", 1.0)),
    }


def _yarn(file: GGUFFile, factor: float, config: Any) -> dict[str, Any]:
    # llama.cpp's own multipliers of what yarn does to the size of queries and keys
    for name, usual in (("attn_factor", (1.0,)), ("yarn_attn_factor", (1.0,)), ("yarn_ext_factor", (1.0, -1.0))):
        if file.take(f"rope.scaling.{name}", usual[0]) not in usual:
            raise file.refuse(f"rope.scaling.{name}", f"expected {usual[0]}: transformers has no other")
    betas = {name: float(file.take(f"rope.scaling.yarn_{name}", usual)) for name, usual in YARN_BETAS.items()}
    original = file.take("rope.scaling.original_context_length", config.max_position_embeddings)
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original} | betas
