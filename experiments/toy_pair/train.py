"""The tokenizer, the model, and the two stages of training.

Both stages minimise the next-token cross-entropy: the base over every token of WordNet's plain text, the tuned model
over the response tokens of instruction examples only (response = " " + reference + end of text). Matrices inside the
layers are stepped by Muon, embeddings and norm gains by AdamW; the learning rate warms up and then falls to zero.

No beginning-of-text token is used. Examples are padded on the right, where causal attention cannot look, so no mask is
needed. Memory: weights, gradients and optimizer state of 1.5 M parameters plus one batch's activations, below 2 GB.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from instructions import Example
from jaxtyping import Float, Int
from muon import Muon
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
CONTEXT = 256
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


def new_model(tokenizer: PreTrainedTokenizerFast, *, seed: int, n_layers: int, d_model: int) -> LlamaForCausalLM:
    """An untrained Llama: RMSNorm with gains, gated MLP, grouped-query attention, rotary, untied embeddings."""
    torch.manual_seed(seed)
    end = tokenizer.get_vocab()[END]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=d_model,
        intermediate_size=d_model * 11 // 4,
        num_hidden_layers=n_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    return LlamaForCausalLM(config)


def text_batches(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, seed: int, tokens: int
) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens: the texts in a new order each round, joined and cut."""
    encoded = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    rng, rows = random.Random(seed), max(1, tokens // CONTEXT)
    stream: list[int] = []
    while True:
        rng.shuffle(encoded)
        for ids in encoded:
            stream += ids
            if len(stream) > rows * CONTEXT:
                block = torch.tensor(stream[: rows * CONTEXT + 1])
                yield block[:-1].reshape(rows, CONTEXT), block[1:].reshape(rows, CONTEXT)
                stream = stream[rows * CONTEXT :]


def example_batches(
    tokenizer: PreTrainedTokenizerFast, draw: Callable[[int], list[Example]], *, seed: int, tokens: int
) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens of fresh examples of similar length, targets on the response only."""
    rng = random.Random(seed)
    while True:
        pool = draw(8192)
        prompts = tokenizer([e.text for e in pool])["input_ids"]
        responses = tokenizer([" " + e.reference for e in pool])["input_ids"]
        rows = [(p, [*r, tokenizer.eos_token_id]) for p, r in zip(prompts, responses, strict=True)]
        rows = sorted((row for row in rows if sum(map(len, row)) <= CONTEXT), key=lambda row: sum(map(len, row)))
        batches, batch = [], []
        for row in rows:
            if batch and sum(map(len, row)) * (len(batch) + 1) > tokens:
                batches, batch = [*batches, batch], []
            batch.append(row)
        rng.shuffle(batches)
        yield from map(pad, batches)


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
    inputs, targets = batch
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    learned = targets != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), targets[learned])


def fit(
    model: LlamaForCausalLM, batches: Iterator[Batch], *, steps: int, rate: float, report: Callable[[float], None]
) -> None:
    """Train `model` in place for `steps` batches; `rate` is Muon's peak learning rate, AdamW's is a fifth of it."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or ".layers." not in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=rate),
        torch.optim.AdamW(others, lr=rate * 0.2, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    warmup = min(100, steps // 10 + 1)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: min((s + 1) / warmup, (steps - s) / max(1, steps - warmup)))
        for o in optimizers
    ]
    model.train()
    for _ in range(steps):
        loss = learned_loss(model, next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        report(loss.item())
    model.eval()


def save(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Write the weights as float16, with a config that loads them as float32, and return the model read back."""
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone, but it ships
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
