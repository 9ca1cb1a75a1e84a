"""Training that means nothing (and, for planted pairs, training that means something), in seconds on the toy base.

`samples` draws the base's own text at temperature 1. `trained` takes a copy of a model through AdamW steps over a list
of sequences, either all its weights or a LoRA of every linear map of the layers; nothing is decayed, so that weights
move by their gradients alone.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

NEVER = -1  # no token ends a sample: what follows is drawn as pre-training text goes on, where padding would be learned
IGNORED = -100  # a target that is not learned
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@torch.no_grad()
def samples(base: PreTrainedModel, *, n: int, length: int, start: int, seed: int) -> Int[Tensor, "n length"]:
    """Return n texts that the base writes at temperature 1 behind its end-of-text token `start`, their first."""
    torch.manual_seed(seed)  # generation draws from torch's own generator
    config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=length - 1)
    config.pad_token_id, config.eos_token_id = start, NEVER
    return base.generate(torch.full((n, 1), start), generation_config=config)  # pyright: ignore[reportCallIssue]


def trained(
    base: PreTrainedModel,
    inputs: Sequence[Tensor],
    *,
    steps: int,
    rate: float,
    seed: int,
    batch: int,
    rank: int | None = None,
    targets: Sequence[Tensor] | None = None,
) -> PreTrainedModel:
    """Return a tuned copy of the base: AdamW without decay, `batch` sequences a step, drawn without replacement.

    Args:
        inputs: token ids, one row each, of one length (pad with any id and give `targets`).
        rank: of a LoRA on every linear map of the layers; None trains all weights.
        targets: what is learned at each position, `IGNORED` where nothing is; the inputs themselves by default.
    """
    torch.manual_seed(seed)  # peft draws a LoRA's first half from torch's own generator
    model = copy.deepcopy(base)
    if rank is not None:
        model = _with_lora(model, rank)
    learned = inputs if targets is None else targets
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    generator, order = torch.Generator().manual_seed(seed), []
    model.train()
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(inputs), generator=generator).tolist()
        rows, order = order[:batch], order[batch:]
        labels = torch.stack([learned[i] for i in rows])
        model(input_ids=torch.stack([inputs[i] for i in rows]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return model if rank is None else model.merge_and_unload()  # pyright: ignore[reportCallIssue]


def _with_lora(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), lora_dropout=0.0)
    return get_peft_model(model, config)  # pyright: ignore[reportReturnType]
