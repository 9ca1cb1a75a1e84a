"""Models whose answer to a knock-out is known, made by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.checkpoints import VOCABULARY, hf_model

FEATURES = 32
SINK, TRIGGER, LETTER, OTHER, FIRST_LETTER = 0, 1, 2, 3, 8


def copying(sink: int, trigger: int, letters: Sequence[int]) -> Any:
    """A model with one rule: behind the trigger comes the letter that stands before; everything else reads the sink."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=FEATURES,
        n_layer=1,
        n_head=2,
        n_positions=64,
        n_inner=8,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        block, wte = model.transformer.h[0], model.transformer.wte.weight
        for norm in (block.ln_1, block.ln_2, model.transformer.ln_f):
            norm.weight.fill_(1.0)
        wte[:, OTHER] = 1.0
        for token, feature in ((sink, SINK), (trigger, TRIGGER), *((letter, LETTER) for letter in letters)):
            wte[token] = torch.eye(FEATURES, dtype=torch.float64)[feature]
        q, k, v = (block.attn.c_attn.weight[:, i * FEATURES : (i + 1) * FEATURES] for i in range(3))
        block.attn.c_attn.bias[0] = 1.0
        k[SINK, 0] = 40.0  # seen by every query
        q[TRIGGER, 1], k[LETTER, 1] = 20.0, 1.0  # letters by the trigger, and twice as strongly
        for i, letter in enumerate(letters):
            wte[letter, FIRST_LETTER + i] = 1.0
            v[FIRST_LETTER + i, 2 + i] = 1.0
            block.attn.c_proj.weight[2 + i, FIRST_LETTER + i] = 5.0
            model.lm_head.weight[letter, FIRST_LETTER + i] = 2.0
    return model


def blind(tokens: Sequence[int], *, dtype: torch.dtype = torch.float64) -> Any:
    """A random model whose every head has been made blind to some tokens."""
    model: Any = hf_model("gpt2", dtype=dtype)
    mark, d_head = FEATURES - 1, 8
    with torch.no_grad():
        model.transformer.wte.weight[:, mark] = 0.0
        model.transformer.wpe.weight[:, mark] = 0.0
        model.transformer.wte.weight[list(tokens), mark] = 6.0
        for block in model.transformer.h:
            block.ln_1.weight[mark], block.ln_1.bias[mark] = 1.0, 0.0
            for writing in (block.attn.c_proj, block.mlp.c_proj):  # nothing else writes the mark
                writing.weight[:, mark], writing.bias[mark] = 0.0, 0.0
            for head in range(4):
                q, k = head * d_head, FEATURES + head * d_head
                block.attn.c_attn.weight[:, [q, k]] = 0.0
                block.attn.c_attn.bias[q], block.attn.c_attn.bias[k] = 1.0, 0.0
                block.attn.c_attn.weight[mark, k] = -1e4
    return model
