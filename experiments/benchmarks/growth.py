"""How time, operations and memory grow: python -m experiments.benchmarks.growth [--only attribute] [--out FILE].

One size at a time is doubled, the others held: prompt and response tokens, layers, width, vocabulary, words, prompts. A
row says by which power of the size the cost grew over its largest three values (1: doubled when the size doubled), and
what the algorithm's own count of operations lets one expect at these sizes. Models are Llamas of random weights. Each
point is a process of its own, forked, so that its peak of memory is its own: what it took beyond what was there.
"""

import json
import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import lensdiff
from experiments.benchmarks.flops import counted
from lensdiff.inputs import toy_pair
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.models import ModelView, load_model, view_of

KIB, FITTED, REPEATS = 1024, 3, 3
LEAST_MIB = 8  # a peak below it is lost among what the allocator keeps
SIZES = {"layers": 4, "d_model": 256, "d_vocab": 4096, "N": 16, "M": 16, "prompts": 1, "words": 1000}
HEAD = 32  # dimensions of an attention head
Sizes = dict[str, int]


class Growth(NamedTuple):
    """One operation, the size that is doubled, its values, and the power that is expected at them."""

    operation: str
    size: str
    values: tuple[int, ...]
    expected: str


GROWTHS = [
    Growth("attribute, forward", "N", (16, 32, 64, 128), "1 to 2: N tangents of N + M positions"),
    Growth("attribute, forward", "M", (64, 128, 256, 512), "1, then attention's 2"),
    Growth("attribute, reverse", "N", (64, 128, 256, 512), "1, then attention's 2"),
    Growth("attribute, reverse", "M", (16, 32, 64, 128), "1 to 2: M gradients of N + M positions"),
    Growth("attribute, forward", "layers", (2, 4, 8, 16), "1"),
    Growth("attribute, forward", "d_model", (128, 256, 512, 1024), "2, the matrices'"),
    Growth("attribute, forward", "d_vocab", (8192, 16384, 32768, 65536), "at most 1"),
    Growth("attribute, forward", "prompts", (2, 4, 8, 16), "1"),
    Growth("head_word_pairs", "words", (2000, 4000, 8000, 16000), "at most 1"),
    Growth("head_word_pairs", "layers", (2, 4, 8, 16), "1"),
    Growth("mlp_concepts", "words", (2000, 4000, 8000, 16000), "at most 1: principal components need no words"),
    Growth("mlp_concepts", "layers", (2, 4, 8, 16), "1"),
    Growth("mlp_concepts", "d_model", (128, 256, 512, 1024), "3, the decomposition's"),
]


def view_with(sizes: Sizes) -> ModelView:
    """Return a Llama of random weights, with the toy pair's tokenizer."""
    torch.manual_seed(0)
    d = sizes["d_model"]
    config = LlamaConfig(
        vocab_size=sizes["d_vocab"],
        hidden_size=d,
        intermediate_size=4 * d,
        num_hidden_layers=sizes["layers"],
        num_attention_heads=d // HEAD,
        num_key_value_heads=d // HEAD,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=0,
    )
    tokenizer = AutoTokenizer.from_pretrained(toy_pair.BASE, trust_remote_code=False)
    return view_of(load_model(LlamaForCausalLM(config), tokenizer=tokenizer, device="cpu"))


def operation(name: str, view: ModelView, sizes: Sizes) -> Callable[[], Any]:
    """Return what is measured, as a user calls it."""
    words = Vocabulary.default().words[: sizes["words"]]
    if name == "head_word_pairs":
        return lambda: lensdiff.head_word_pairs(view.model, words)
    if name == "mlp_concepts":
        return lambda: lensdiff.mlp_concepts(view.model, words, sides=("value",))
    assert view.tokenizer is not None
    single = [word for word in Vocabulary.default().words if len(view.tokenizer(f" {word}")["input_ids"]) == 1]
    many = (single * (1 + (sizes["N"] + sizes["M"]) // len(single)))[: sizes["N"] + sizes["M"]]
    prompt, answer = (" ".join(some) for some in (many[: sizes["N"]], many[sizes["N"] :]))
    method: Any = name.split(", ")[1]
    prompts = [lensdiff.Prompt(prompt, id=str(number)) for number in range(sizes["prompts"])]
    answers, options = [answer] * len(prompts), {"method": method, "deletion_draws": 0, "progress": False}
    return lambda: lensdiff.attribute(view.model, prompts, answers, **options)


def measure(growth: Growth, value: int) -> dict[str, float]:
    """Return operations, the best processor seconds, and the memory beyond what was there in MiB."""
    sizes = SIZES | {growth.size: value}
    run = operation(growth.operation, view_with(sizes), sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / KIB
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    with counted() as counter:
        run()
    return {"value": value, "flops": counter.get_total_flops(), "cpu_s": min(seconds), "peak_mib": peak}


def apart(growth: Growth, value: int) -> dict[str, float]:
    """Measure in a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (growth, value))


def power(values: list[float], costs: list[float]) -> float:
    """Return the least-squares slope of log cost over log size, of the largest sizes."""
    x, y = ([math.log(one) for one in some[-FITTED:]] for some in (values, costs))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def row_of(growth: Growth, found: list[dict[str, float]]) -> dict[str, Any]:
    """Return the fitted powers; None where nothing is counted (no matrix products) or too little memory is taken."""
    sizes = [one["value"] for one in found]
    row: dict[str, Any] = growth._asdict() | {"points": found}
    for kind, least in (("flops", 1), ("cpu_s", 0), ("peak_mib", LEAST_MIB)):
        costs = [one[kind] for one in found]
        row[kind] = power(sizes, costs) if min(costs[-FITTED:]) >= max(least, 1e-9) else None
    return row


def rows(only: str, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Measure one growth after the other."""
    for growth in (one for one in GROWTHS if only in f"{one.operation} by {one.size}"):
        row = row_of(growth, [apart(growth, value) for value in growth.values])
        said = ", ".join(f"{kind} {'-' if row[kind] is None else f'{row[kind]:.2f}'}" for kind in POWERS)
        say(f"{growth.operation} by {growth.size}: {said}")
        yield row


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the table of what is written as JSON."""
    headings = "operation", "size", "from - to", *POWERS.values(), "expected of operations"
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in found:
        fitted = ("-" if row[kind] is None else f"{row[kind]:.2f}" for kind in POWERS)
        span = f"{row['values'][-FITTED]} - {row['values'][-1]}"
        lines.append("| " + " | ".join((row["operation"], row["size"], span, *fitted, row["expected"])) + " |")
    return "\n".join(lines)


POWERS = {"flops": "operations", "cpu_s": "time", "peak_mib": "memory"}


def main(
    only: Annotated[str, typer.Option(help="Only what holds this, as 'attribute, forward by N'.")] = "",
    out: Annotated[Path | None, typer.Option(help="A JSON file that the numbers are written to.")] = None,
) -> None:
    """Fit how costs grow."""
    torch.set_num_threads(1)  # a forked process may not use what another thread began
    found = []
    for row in rows(only, lambda text: typer.echo(text, err=True)):
        found.append(row)
        if out is not None:  # what was measured stays, if a later growth ends the run
            kept = {"torch": torch.__version__, "growths": found}
            out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    typer.echo(markdown(found))


if __name__ == "__main__":
    typer.run(main)
