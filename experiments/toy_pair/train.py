"""The tokenizer, the model, and the two stages of training.

Both stages minimise the next-token cross-entropy: the base over every token of plain text, the tuned model over the
response tokens of instruction examples only (response = " " + reference + end of text). The base's matrices inside the
layers are stepped by Muon and the rest by AdamW; tuning steps every weight by AdamW at a small rate. The learning rate
warms up, stays, and falls to zero; the base does so twice.

Training goes by rounds: the batches of a round follow from its number alone and a checkpoint is written after each, so
that a run that was stopped goes on and ends in the same weights.

No beginning-of-text token is used. Examples are padded on the right, where causal attention cannot look, so no mask is
needed. Layers run in bfloat16 where the processor has it (weights and sums stay in float32). Memory: weights, gradients
and optimizer state of 3 M parameters plus one batch's activations, below 3 GB.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from instructions import CHAT_TEMPLATE, Example
from jaxtyping import Float, Int
from muon import Muon
from starting_weights import plant_copying
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
CONTEXT = 256
WARMUP, DECAY = 0.4, 0.5  # rounds; share of the rounds
HEAD = 32  # dimensions of an attention head
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
Batch = tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]  # inputs; targets, -100 where nothing is learned


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer of `texts`, saved to `folder` and read back.

    Digits stand alone; the one special token ends a text and pads; nothing is added to an encoded text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def save_tuned_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The same tokenizer with the chat template."""
    tokenizer.save_pretrained(folder)
    tuned = PreTrainedTokenizerFast.from_pretrained(folder)
    tuned.chat_template = CHAT_TEMPLATE
    tuned.save_pretrained(folder)


def new_model(tokenizer: PreTrainedTokenizerFast, *, seed: int, n_layers: int, d_model: int) -> LlamaForCausalLM:
    """An untrained Llama: RMSNorm with gains, gated MLP, grouped-query attention, rotary, untied embeddings.

    Two pairs of heads start as copiers (see `starting_weights`).
    """
    torch.manual_seed(seed)
    end = tokenizer.get_vocab()[END]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=d_model,
        intermediate_size=d_model * 8 // 3,
        num_hidden_layers=n_layers,
        num_attention_heads=d_model // HEAD,
        num_key_value_heads=d_model // HEAD // 2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    return plant_copying(LlamaForCausalLM(config))


def text_batches(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, tokens: int) -> list[Batch]:
    """Batches of about `tokens` tokens: the texts joined in their order and cut; an incomplete batch is left out."""
    encoded = tokenizer(list(texts), verbose=False)["input_ids"]
    stream = torch.tensor([token for ids in encoded for token in (*ids, tokenizer.eos_token_id)])
    size = max(1, tokens // CONTEXT) * CONTEXT
    starts = range(0, len(stream) - size, size)
    return [
        (stream[s : s + size].reshape(-1, CONTEXT), stream[s + 1 : s + size + 1].reshape(-1, CONTEXT)) for s in starts
    ]


def example_batches(
    tokenizer: PreTrainedTokenizerFast, pool: Sequence[Example], *, rng: random.Random, tokens: int
) -> list[Batch]:
    """Batches of about `tokens` tokens, examples of similar length together, targets on the response only."""
    prompts = tokenizer([e.text for e in pool])["input_ids"]
    responses = tokenizer([" " + e.reference for e in pool])["input_ids"]
    rows = [(p, [*r, tokenizer.eos_token_id]) for p, r in zip(prompts, responses, strict=True)]
    rows = sorted((row for row in rows if sum(map(len, row)) <= CONTEXT), key=lambda row: sum(map(len, row)))
    batches, batch = [], []
    for row in rows:
        if batch and sum(map(len, row)) * (len(batch) + 1) > tokens:
            batches, batch = [*batches, batch], []
        batch.append(row)
    batches = batches or [batch]  # an incomplete batch is left out, unless there is no other
    rng.shuffle(batches)
    return [pad(batch) for batch in batches]


def pad(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """Prompts with responses as one right-padded batch."""
    length = max(len(p) + len(r) for p, r in rows) - 1
    inputs, targets = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), -100)
    for row, (prompt, response) in enumerate(rows):
        ids = prompt + response
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, len(prompt) - 1 : len(ids) - 1] = torch.tensor(response)
    return inputs, targets


def learned_loss(model: LlamaForCausalLM, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the learned positions; the others are not unembedded."""
    inputs, targets = (ids.to(model.device) for ids in batch)
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    learned = targets != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]).float(), targets[learned])


Loss = Callable[[LlamaForCausalLM, Batch], Tensor]


def base_optimizers(model: LlamaForCausalLM, *, rate: float) -> list[torch.optim.Optimizer]:
    """Muon at `rate` for the layers' matrices, AdamW at two fifths of it for embeddings and gains."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or ".layers." not in n]
    return [
        Muon(matrices, lr=rate),
        torch.optim.AdamW(others, lr=rate * 0.4, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def tuning_optimizers(model: LlamaForCausalLM, *, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW at `rate` for every weight, so that no weight can move by more than about `rate` a step."""
    return [torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]


def learning_rate(position: float, cycles: Sequence[int]) -> float:
    """The share of the peak rate after `position` rounds; each cycle has that many rounds.

    In a cycle the rate goes up within 0.4 rounds, stays, and falls to zero over the last half.
    """
    for rounds in cycles[:-1]:
        if position < rounds:
            return learning_rate(position, [rounds])
        position -= rounds
    return min((position + 1e-3) / WARMUP, 1.0, (cycles[-1] - position) / (DECAY * cycles[-1]))


def fit(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    batches_of: Callable[[int], list[Batch]],
    *,
    cycles: Sequence[int],
    checkpoint: Path,
    report: Callable[[int, float, int], None],
    loss_of: Loss = learned_loss,
) -> None:
    """Train `model` in place on the batches of each round; `report` gets the round, its mean loss and its tokens.

    Goes on after the last round that `checkpoint` has, and writes it after every round.
    """
    first, peaks = 0, [group["lr"] for o in optimizers for group in o.param_groups]
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        first = state["rounds"]
        model.load_state_dict(state["model"])
        for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
    model.train()
    for done in range(first, sum(cycles)):
        batches, losses = batches_of(done), []
        for number, batch in enumerate(batches):
            share = learning_rate(done + number / len(batches), cycles)
            for group, peak in zip((g for o in optimizers for g in o.param_groups), peaks, strict=True):
                group["lr"] = peak * share
            losses.append(step(model, optimizers, batch, loss_of))
        state = {"rounds": done + 1, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        report(done, sum(losses) / len(losses), sum(inputs.numel() for inputs, _ in batches))
    model.eval()


def step(
    model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer], batch: Batch, loss_of: Loss = learned_loss
) -> float:
    """One update, its gradient's norm cut at 1; returns the loss before it."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=HAS_BFLOAT16):  # a GPU stays in float32
        loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def save(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Write the weights as float16, with a config that loads them as float32, and return the model read back."""
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone, but it ships
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
