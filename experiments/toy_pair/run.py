"""Train the shipped toy pair from scratch: tokenizer, base, tuned, prompts, licence notice and accuracy.

python experiments/toy_pair/run.py                     writes lensdiff/inputs/data/toy_pair (its card is by hand)
python experiments/toy_pair/run.py --fast --out DIR    the same steps in seconds, with useless models
"""

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Annotated

import evaluate
import instructions
import torch
import train
import typer
import wordnet
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

PACKAGE_FOLDER = Path(__file__).parents[2] / "lensdiff" / "inputs" / "data" / "toy_pair"


def main(
    folder: Annotated[Path, typer.Option("--wordnet", help="Debian: package wordnet-base.")] = wordnet.DEFAULT_FOLDER,
    out: Annotated[Path, typer.Option(help="Where the pair goes.")] = PACKAGE_FOLDER,
    steps_base: Annotated[int, typer.Option(help="Batches of plain text, 2048 tokens each.")] = 1000,
    steps_tuned: Annotated[int, typer.Option(help="Batches of instruction examples, 2048 tokens each.")] = 6000,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; the last digits of the weights depend on it.")] = 2,
    fast: Annotated[bool, typer.Option("--fast", help="A few steps on a tiny model: a test of the script.")] = False,
) -> None:
    """Train, measure and write the pair."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)
    steps_base, steps_tuned = (4, 4) if fast else (steps_base, steps_tuned)
    tokens, n_examples, n_scored = (1024, 500, 2) if fast else (2048, 20000, 100)
    entries = wordnet.read_entries(folder)
    dictionary = wordnet.split(entries, seed=seed, n_held_out=600, keep=instructions.instruction_words())
    texts = [wordnet.entry_text(word, senses) for word, senses in dictionary.train.items()][: 2000 if fast else None]
    seen = instructions.Words.of(dictionary, held_out=False)
    unseen = instructions.Words.of(dictionary, held_out=True)

    kinds = list(instructions.KINDS)
    drawn = instructions.examples(kinds, seen, random.Random(seed), n_examples)
    corpus = [*texts, *(f"{e.text} {e.reference}" for e in drawn)]
    tokenizer = train.train_tokenizer(corpus, vocabulary=400 if fast else 3072, folder=out / "base")
    tokenizer.save_pretrained(out / "tuned")
    model = train.new_model(tokenizer, seed=seed, n_layers=1 if fast else 4, d_model=32 if fast else 128)
    rng = random.Random(seed + 1)
    scored = {p: evaluate.held_out_examples(unseen, seed=seed, n=n_scored, phrasings=p) for p in ("train", "held_out")}
    accuracy: dict[str, dict] = {"parameters": {"count": model.num_parameters()}}
    text_batches = train.text_batches(tokenizer, texts, seed=seed, tokens=tokens)
    draw = partial(instructions.examples, kinds, seen, rng)
    examples = train.example_batches(tokenizer, draw, seed=seed, tokens=tokens)
    with Progress() as progress:
        for name, batches, steps in (("base", text_batches, steps_base), ("tuned", examples, steps_tuned)):
            task = progress.add_task(name, total=steps)
            train.fit(model, batches, steps=steps, rate=0.02, report=lambda loss, task=task: progress.advance(task))
            unrounded = evaluate.score(model, tokenizer, scored["train"])
            model = train.save(model, out / name)
            accuracy[name] = {p: evaluate.score(model, tokenizer, e) for p, e in scored.items()}
            accuracy[name]["train_before_rounding"] = unrounded
    (out / "accuracy.json").write_text(json.dumps(accuracy, indent=1) + "\n")
    (out / "WORDNET_LICENSE").write_text(wordnet.licence(folder))
    prompts = evaluate.shipped_prompts(unseen, seed=seed)
    (out / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))

    table = Table("kind", "base", "tuned", "tuned, new phrasing", title="Exact match on held-out words")
    for kind in instructions.SCORED_KINDS:
        cells = (accuracy["base"]["train"], accuracy["tuned"]["train"], accuracy["tuned"]["held_out"])
        table.add_row(kind, *(f"{cell[kind]['exact']:.0%}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
