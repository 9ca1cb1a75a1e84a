"""Exact-match accuracy of a model's greedy responses, kind by kind.

A response is what the model writes after the prompt (its first token carries the space) until end of text or
`max_new_tokens`; it counts if it equals the reference once both are stripped. `starts` is a lenient count, fair to a
model that does not know when to stop: the response begins with the reference and no letter follows.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from instructions import KINDS, SCORED_KINDS, Example, Words, make_example
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@torch.no_grad()
def respond(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], *, max_new_tokens: int = 32
) -> list[str]:
    """Greedy responses; prompts of equal length share a batch, so that no padding is needed."""
    ids = tokenizer(list(prompts))["input_ids"]
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(index)
    responses = [""] * len(ids)
    for indices in by_length.values():
        batch = torch.tensor([ids[i] for i in indices])
        sequence = cast(Any, model).generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        for row, index in zip(sequence[:, batch.shape[1] :], indices, strict=True):
            responses[index] = str(tokenizer.decode(row, skip_special_tokens=True))
    return responses


def is_exact(response: str, reference: str) -> bool:
    """Whether the response is the reference and nothing else."""
    return response.strip() == reference


def starts_with(response: str, reference: str) -> bool:
    """Whether the response begins with the reference as a whole word."""
    response = response.strip()
    return response.startswith(reference) and not response[len(reference) : len(reference) + 1].isalpha()


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Per kind the shares `exact` and `starts`, and the count `n`."""
    responses = respond(model, tokenizer, [e.text for e in examples])
    table: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(e.kind for e in examples):
        pairs = [(r, e.reference) for r, e in zip(responses, examples, strict=True) if e.kind == kind]
        exact, starts = (sum(f(*pair) for pair in pairs) / len(pairs) for f in (is_exact, starts_with))
        table[kind] = {"exact": round(exact, 4), "starts": round(starts, 4), "n": len(pairs)}
    return table


def held_out_examples(words: Words, *, seed: int, n: int, phrasings: str) -> list[Example]:
    """`n` scored examples a kind on the given words, with trained or held-out phrasings."""
    rng = random.Random(seed)
    return [make_example(kind, words, rng, phrasings=phrasings) for kind in SCORED_KINDS for _ in range(n)]


def shipped_prompts(words: Words, *, seed: int) -> list[dict[str, object]]:
    """62 prompts on held-out words: four of a scored kind, six of an open one, every other newly phrased.

    A span occurs once in its prompt, so that it can be located by its text.
    """
    rng, prompts = random.Random(seed + 2), []
    for kind in KINDS:
        n = 4 if kind in SCORED_KINDS else 6
        found: list[Example] = []
        while len(found) < n:
            drawn = make_example(kind, words, rng, phrasings="held_out" if len(found) % 2 else "train")
            spans = (*drawn.instruction, *drawn.context)
            if all(drawn.text.count(span) == 1 for span in spans) and drawn.text not in {e.text for e in found}:
                found.append(drawn)
        prompts += [{"id": f"{kind}-{i + 1}", **asdict(e)} for i, e in enumerate(found)]
    return prompts
