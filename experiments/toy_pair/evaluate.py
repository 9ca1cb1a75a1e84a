"""How well a model does what it is asked, kind by kind, and how well it predicts plain text.

A response is what the model writes after the prompt (its first token carries the space) until end of text or
`max_new_tokens`. It is right if it equals the reference once both are stripped. The kind `example` has no single right
answer; there a response is right if it is one line, ends in a full stop, has at least four words, the word it was
asked for among them, and does not stand in the prompt. `starts` is a lenient count, fair to a model that does not know
when to stop: the response begins with the reference and no letter follows (`example`: its first line is right).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from instructions import Example, worded
from passages import ASKED, KINDS, SORTS, Words, make_task
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from wordnet import words_of

BATCH = 64  # prompts that are answered together


@torch.no_grad()
def respond(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, max_new_tokens: int = 48
) -> list[str]:
    """Greedy responses; prompts of similar length share a batch, padded on the left, where the mask hides it."""
    ids = tokenizer(list(prompts))["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    responses, end = [""] * len(ids), tokenizer.eos_token_id
    for start in range(0, len(order), BATCH):
        indices = order[start : start + BATCH]
        length = len(ids[indices[-1]])
        padding = [length - len(ids[i]) for i in indices]
        rows = [[end] * n + ids[i] for n, i in zip(padding, indices, strict=True)]
        batch = torch.tensor(rows, device=model.device)
        mask = torch.tensor([[0] * n + [1] * (length - n) for n in padding], device=model.device)
        sequence = cast(Any, model).generate(
            batch,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        for row, index in zip(sequence[:, length:], indices, strict=True):
            responses[index] = str(tokenizer.decode(row, skip_special_tokens=True))
    return responses


def is_exact(response: str, reference: str) -> bool:
    """Whether the response is the reference and nothing else."""
    return response.strip() == reference


def starts_with(response: str, reference: str) -> bool:
    """Whether the response begins with the reference as a whole word."""
    response = response.strip()
    return response.startswith(reference) and not response[len(reference) : len(reference) + 1].isalpha()


def is_example(response: str, example: Example) -> bool:
    """Whether the response is one new sentence with the word in it."""
    response = response.strip()
    words = words_of(response)
    one = response.endswith(".") and "\n" not in response and 4 <= len(response.split()) <= 30
    return one and example.word in words and response.rstrip(".") not in example.text


def judge(response: str, example: Example) -> tuple[bool, bool]:
    """Whether a response is right, and whether it begins right."""
    if example.kind == "example":
        return is_example(response, example), is_example(response.strip().split("\n")[0], example)
    return is_exact(response, example.reference), starts_with(response, example.reference)


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Per kind the shares `right` and `starts`, and the count `n`."""
    responses = respond(model, tokenizer, [e.text for e in examples])
    table: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(e.kind for e in examples):
        judged = [judge(r, e) for r, e in zip(responses, examples, strict=True) if e.kind == kind]
        right, starts = (sum(column) / len(judged) for column in zip(*judged, strict=True))
        table[kind] = {"right": round(right, 4), "starts": round(starts, 4), "n": len(judged)}
    return table


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """exp of the mean cross-entropy (nats a token) over texts, each read alone after an end of text and to its own."""
    total, count, end = 0.0, 0, tokenizer.eos_token_id
    for ids in tokenizer(list(texts), verbose=False)["input_ids"]:
        row = torch.tensor([[end, *ids, end]], device=model.device)[:, : model.config.max_position_embeddings]
        logits = model(input_ids=row[:, :-1]).logits[0].float()
        total += float(torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum"))
        count += row.shape[1] - 1
    return math.exp(total / count)


def relative_changes(base: Path, tuned: Path) -> dict[str, float]:
    """||tuned - base|| / ||base|| over the matrices of two checkpoints (Frobenius): least, median and largest."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    changes = sorted(
        float((after[name].double() - matrix.double()).norm() / matrix.double().norm())
        for name, matrix in before.items()
        if matrix.ndim == 2
    )
    return {"min": changes[0], "median": median(changes), "max": changes[-1]}


def held_out_examples(words: Words, *, seed: int, n: int, phrasings: str, chat: bool) -> list[Example]:
    """`n` examples a kind on the given words, with trained or held-out phrasings, raw or in the chat template."""
    rng = random.Random(seed)
    tasks = [make_task(kind, words, rng, trained=False) for kind in KINDS for _ in range(n)]
    return [worded(task, rng, phrasings=phrasings, chat=chat) for task in tasks]


def raw_prompts(words: Words, *, seed: int, passages: int) -> list[dict[str, object]]:
    """12 raw prompts on held-out words for each of `passages` rounds: every task of a passage of each sort.

    Tasks share their passage, so that the context alone does not give the task away; every other prompt is newly
    phrased. A span occurs once in its prompt, so that it can be located by its text.
    """
    rng, prompts = random.Random(seed), []
    number = dict.fromkeys(KINDS, 0)
    for sort, asked in [pair for _ in range(passages) for pair in ASKED.items()]:
        for example in tasks_of_one_passage(sort, list(asked), words, rng, first=len(prompts)):
            number[example.kind] += 1
            prompts.append({"id": f"{example.kind}-{number[example.kind]}", **asdict(example)})
    return prompts


def tasks_of_one_passage(sort: str, kinds: list[str], words: Words, rng: random.Random, *, first: int) -> list[Example]:
    """A raw prompt of each kind on one passage, all with a reference and with spans that occur once."""
    while True:
        passage = SORTS[sort](words, rng)
        found = [
            worded(ASKED[sort][kind](passage, rng), rng, phrasings=("train", "held_out")[(first + i) % 2], chat=False)
            for i, kind in enumerate(kinds)
        ]
        spans_once = all(e.text.count(span) == 1 for e in found for span in (*e.instruction, *e.context))
        if spans_once and all(e.reference for e in found):
            return found
