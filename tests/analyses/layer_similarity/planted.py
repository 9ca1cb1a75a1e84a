"""Pairs whose streams differ in a known way, and the plain computation that holds every stream."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensdiff.analyses.layer_similarity.result import MEASURES
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, Point, load_pair
from lensdiff.models.aligned_text import align_text
from lensdiff.models.inside.precision import double_precision
from tests.checkpoints import hf_model, tokenizer_of
from tests.models.hf_points import patched

OPTIONS: dict[str, Any] = {"device": "cpu", "verify": False, "dtype": "float64"}
PROMPTS = [
    Prompt("Write a short poem about the moon and the sea", ["Write a short poem"], ["the moon"], id="poem"),
    Prompt("List three fruits. Apples are good for you", ["List three fruits"], ["Apples"], id="fruits"),
]
SAID = ["Apples and bananas, good morning.", "The sea and the moon, the bridge and the city"]


def rotation(n: int, fixed: Tensor | None = None) -> Tensor:
    """A random orthogonal matrix; it leaves a vector as it is."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    if fixed is None:
        return q
    basis = torch.linalg.qr(torch.cat([fixed[:, None], torch.randn(n, n - 1, generator=generator, dtype=q.dtype)], 1))[
        0
    ]
    inner = torch.eye(n, dtype=q.dtype)
    inner[1:, 1:] = torch.linalg.qr(q[1:, 1:])[0]
    return basis @ inner @ basis.T


def turned_llama(source: Any, q: Tensor) -> Any:
    """The same model with its stream turned by q: gains folded into what reads them (RMSNorm), then q into all."""
    model = deepcopy(source)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ q)
        norms = []
        for block in model.model.layers:
            read = [(block.input_layernorm, [getattr(block.self_attn, f"{x}_proj") for x in "qkv"])]
            read.append((block.post_attention_layernorm, [block.mlp.gate_proj, block.mlp.up_proj]))
            norms += read
            for out in (block.self_attn.o_proj, block.mlp.down_proj):
                out.weight.copy_(q.T @ out.weight)
        for norm, readers in [*norms, (model.model.norm, [model.lm_head])]:
            for reader in readers:
                reader.weight.copy_(reader.weight * norm.weight @ q)
            norm.weight.fill_(1.0)
    return model


def turned_gpt2(source: Any, q: Tensor) -> Any:
    """The same for LayerNorm, whose mean q has to leave as it is; the final norm is without a bias."""
    model = deepcopy(source)
    with torch.no_grad():
        for table in (model.transformer.wte, model.transformer.wpe):
            table.weight.copy_(table.weight @ q)
        for block in model.transformer.h:
            for norm, reader in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                reader.bias.add_(norm.bias @ reader.weight)
                reader.weight.copy_(q.T @ (norm.weight[:, None] * reader.weight))
                norm.weight.fill_(1.0)
                norm.bias.zero_()
            for out in (block.attn.c_proj, block.mlp.c_proj):
                out.weight.copy_(out.weight @ q)
                out.bias.copy_(out.bias @ q)
        model.lm_head.weight.copy_(model.lm_head.weight * model.transformer.ln_f.weight @ q)
        model.transformer.ln_f.weight.fill_(1.0)
    return model


def turned_pair(family: str) -> tuple[ModelPair, Tensor, Any, Any]:
    """A base and its turned self, with the rotation and transformers' models."""
    source: Any = hf_model(family, dtype=torch.float64, tie_word_embeddings=False)
    if family == "gpt2":
        source.transformer.ln_f.bias.data.zero_()
        q = rotation(32, torch.ones(32, dtype=torch.float64))
        turned = turned_gpt2(source, q)
    else:
        q = rotation(32)
        turned = turned_llama(source, q)
    return load_pair(source, turned, tokenizer=tokenizer_of(True), wrapper="bridge", **OPTIONS), q, source, turned


# the plain computation
def held(
    family: str, models: tuple[Any, Any], pair: ModelPair, prompts: Sequence[Prompt], said: Sequence[str], n_layers: int
) -> dict[str, list[np.ndarray]]:
    """The streams of transformers' models at every position but the first, [layer, pos, d_model], by group."""
    found: dict[str, list[Any]] = {}
    for prompt, response in zip(prompts, said, strict=True):
        text = align_text(pair, prompt, response, max_new_tokens=1, prepend_bos=None)
        both = []
        for model, side in zip(models, ("base", "tuned"), strict=True):
            points = [*(Point("resid_pre", i) for i in range(n_layers)), Point("resid_post", n_layers - 1)]
            with torch.no_grad(), double_precision():
                both.append(
                    torch.cat([patched(family, model, text.ids[side][None], p, None)[0] for p in points]).numpy()
                )
        for name, places in {"all": range(text.n_read), **text.groups}.items():
            some = [place for place in places if place > 0]
            if some:
                found.setdefault(name, []).append([one[:, some] for one in both])
    return {
        name: [np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1)] for name, parts in found.items()
    }


def plainly(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The four measures of streams [layer, pos, d_model]; CKA by the kernel of positions, as HSIC is defined."""
    d, size = y - x, np.linalg.norm
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for a, b, c in zip(x, y, d, strict=True):
        n = len(a)
        centre = np.eye(n) - 1 / n
        k, m = (centre @ s @ s.T @ centre for s in (a, b))
        found["cka"].append(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))
        found["relative_change"].append(np.mean(size(c, axis=1) / size(a, axis=1)))
        found["cosine"].append(np.mean((a * b).sum(axis=1) / size(a, axis=1) / size(b, axis=1)))
        found["mean_shift_share"].append(size(c.mean(axis=0)) / np.mean(size(c, axis=1)))
    return {name: np.array(values) for name, values in found.items()}
