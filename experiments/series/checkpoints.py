"""Five checkpoints of a short tuning of the shipped base: experiments/series/checkpoints.py [--help].

The tuning is that of the toy pair (`experiments/toy_pair/run.py`: its examples, batches, optimizer and rate), with
fewer examples a round, and the weights are written after each round. A run that was stopped goes on.
"""

import random
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lensdiff.inputs import toy_pair

sys.path.insert(0, str(Path(__file__).parents[1] / "toy_pair"))
import train  # pyright: ignore[reportMissingImports] (of the toy pair's folder)
import wordnet  # pyright: ignore[reportMissingImports]
from run import Material, Size  # pyright: ignore[reportMissingImports]

ROUNDS = 5


def main(
    out: Annotated[Path, typer.Option(help="Where the checkpoints go, a folder each.")] = Path("series-checkpoints"),
    folder: Annotated[Path, typer.Option("--wordnet", help="Debian: package wordnet-base.")] = wordnet.DEFAULT_FOLDER,
    examples: Annotated[int, typer.Option(min=1, help="Tuning examples of a round.")] = 800,
    rate: Annotated[float, typer.Option(help="Peak rate of the tuning (AdamW).")] = 3.5e-4,
    seed: int = 0,
) -> None:
    """Tune the shipped base and keep the weights after each of five rounds."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    size = Size(examples_a_round=examples, cycles_tuned=(ROUNDS,))
    material = Material.read(folder, seed=seed, size=size)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(toy_pair.TUNED)
    model = LlamaForCausalLM.from_pretrained(toy_pair.BASE, dtype=torch.float32)

    def batches(number: int) -> list[train.Batch]:
        pool = material.example_round(number)
        return train.example_batches(tokenizer, pool, rng=random.Random(number), tokens=size.batch_tokens)

    def keep(number: int, loss: float, tokens: int) -> None:
        place = out / f"round-{number + 1}"
        train.save(model, place)
        tokenizer.save_pretrained(place)
        typer.echo(f"{place}: loss {loss:.3f}, {tokens} tokens")

    optimizers = train.tuning_optimizers(model, rate=rate)
    train.fit(model, optimizers, batches, cycles=size.cycles_tuned, checkpoint=out / "tuning.pt", report=keep)


if __name__ == "__main__":
    typer.run(main)
