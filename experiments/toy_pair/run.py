"""Train the shipped toy pair from scratch: tokenizer, base, tuned, prompts, licence notice and measurements.

python experiments/toy_pair/run.py                     writes lensdiff/inputs/data/toy_pair (its card is by hand)
python experiments/toy_pair/run.py --fast --out DIR --work DIR      the same steps in seconds, with useless models
"""

import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import evaluate
import instructions
import passages
import plain
import torch
import train
import typer
import wordnet
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PACKAGE_FOLDER = Path(__file__).parents[2] / "lensdiff" / "inputs" / "data" / "toy_pair"
WORK_FOLDER = Path(__file__).with_name("out")
PARTS = 20  # the rounds that one reading of the dictionary takes


@dataclass(frozen=True)
class Size:
    """How much of everything: models, rounds, tokens a batch, what a round holds, what is measured."""

    n_layers: int = 4
    d_model: int = 192
    vocabulary: int = 2048
    cycles_base: tuple[int, ...] = (10, 8)  # rounds, after each of which the rate is zero
    cycles_tuned: tuple[int, ...] = (12,)
    batch_tokens: int = 2048
    entries: int | None = None
    passages_a_round: int = 2600
    rounds_repeating: int = 4  # rounds in which words are said twice; then words are spelled instead
    repeated_a_round: int = 200
    spelled_a_round: int = 400
    examples_a_round: int = 2000
    n_scored: int = 100
    n_texts: int = 500


FAST = Size(
    n_layers=2,
    d_model=128,
    vocabulary=512,
    cycles_base=(1, 1),
    cycles_tuned=(2,),
    batch_tokens=1024,
    entries=600,
    passages_a_round=20,
    rounds_repeating=1,
    repeated_a_round=5,
    spelled_a_round=5,
    examples_a_round=40,
    n_scored=2,
    n_texts=10,
)


@dataclass(frozen=True)
class Material:
    """What is trained on and measured with."""

    seen: passages.Words
    unseen: passages.Words
    order: list[str]
    seed: int
    size: Size

    @classmethod
    def read(cls, folder: Path, *, seed: int, size: Size) -> "Material":
        """WordNet, split at the held-out words."""
        keep = instructions.phrasing_words() | passages.passage_words()
        seen, unseen = passages.sides(wordnet.split(wordnet.read_entries(folder), seed=seed, keep=keep))
        order = list(seen.entries)
        random.Random(seed).shuffle(order)
        return cls(seen, unseen, order[: size.entries], seed, size)

    def corpus(self) -> list[str]:
        """The texts that the tokenizer is made from."""
        rng = random.Random(self.seed)
        drawn = instructions.examples(self.seen, rng, 2 * self.size.examples_a_round)
        texts = plain.documents(self.seen, self.order[:20000], rng, passages=3 * self.size.passages_a_round)
        return [*texts, *(f"{e.text} {e.reference}" for e in drawn)]

    def text_round(self, number: int, tokenizer: PreTrainedTokenizerFast) -> list[train.Batch]:
        """The base's batches of a round: a part of the dictionary and new passages."""
        order, rng = list(self.order), random.Random(f"{self.seed}-base-{number}")
        random.Random(f"{self.seed}-order-{number // PARTS}").shuffle(order)
        part = order[number % PARTS :: PARTS]
        early = number < self.size.rounds_repeating
        texts = plain.documents(
            self.seen,
            part,
            rng,
            passages=self.size.passages_a_round,
            repeated=self.size.repeated_a_round if early else 0,
            spelled=0 if early else self.size.spelled_a_round,
        )
        return train.text_batches(tokenizer, texts, tokens=self.size.batch_tokens)

    def example_round(self, number: int) -> list[instructions.Example]:
        """The tuning examples of a round."""
        return instructions.examples(
            self.seen, random.Random(f"{self.seed}-tuned-{number}"), self.size.examples_a_round
        )

    def held_out_texts(self) -> dict[str, list[str]]:
        """The entries of the held-out words, and passages made of them."""
        entries = [wordnet.entry_text(word, senses) for word, senses in self.unseen.entries.items()]
        rng = random.Random(self.seed + 9)
        made = [plain.passage_text(self.unseen, rng) for _ in range(self.size.n_texts)]
        return {"entries": entries[: self.size.n_texts], "passages": made}

    def scored(self) -> dict[str, list[instructions.Example]]:
        """Prompts on held-out words: raw, and half as many in the chat template and in phrasings held out too."""
        n = self.size.n_scored
        sides = {
            "raw": ("train", False, n),
            "chat": ("train", True, n // 2),
            "new_phrasing": ("held_out", False, n // 2),
        }
        return {
            name: evaluate.held_out_examples(self.unseen, seed=self.seed, n=number, phrasings=phrasings, chat=chat)
            for name, (phrasings, chat, number) in sides.items()
        }


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, material: Material, *, prompts: tuple[str, ...]
) -> dict[str, Any]:
    """Perplexities of a model, and its accuracies on the named sides of `Material.scored`."""
    texts, scored = material.held_out_texts(), material.scored()
    return {
        "perplexity": {name: round(evaluate.perplexity(model, tokenizer, t), 2) for name, t in texts.items()},
        "accuracy": {name: evaluate.score(model, tokenizer, scored[name]) for name in prompts},
    }


def trained(
    name: str,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    batches_of: Callable[[int], list[train.Batch]],
    *,
    cycles: tuple[int, ...],
    work: Path,
) -> int:
    """Train a stage, printing a line a round, and return its tokens, those of earlier starts included."""
    log = work / f"tokens-{name}.json"
    counted: dict[str, int] = json.loads(log.read_text()) if log.is_file() else {}

    def report(number: int, loss: float, tokens: int) -> None:
        counted[str(number)] = tokens
        log.write_text(json.dumps(counted))
        typer.echo(f"{name}: round {number + 1} of {sum(cycles)}, loss {loss:.3f}, {tokens} tokens")

    train.fit(model, optimizers, batches_of, cycles=cycles, checkpoint=work / f"{name}.pt", report=report)
    return sum(counted.values())


def main(
    folder: Annotated[Path, typer.Option("--wordnet", help="Debian: package wordnet-base.")] = wordnet.DEFAULT_FOLDER,
    out: Annotated[Path, typer.Option(help="Where the pair goes.")] = PACKAGE_FOLDER,
    work: Annotated[
        Path, typer.Option(help="Checkpoints, tuning examples and more prompts; a stopped run goes on.")
    ] = WORK_FOLDER,
    rate_base: Annotated[float, typer.Option(help="Peak rate of the base's matrices (Muon).")] = 0.005,
    rate_tuned: Annotated[float, typer.Option(help="Peak rate of the tuning (AdamW).")] = 3.5e-4,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; the last digits of the weights depend on it.")] = 1,
    fast: Annotated[bool, typer.Option("--fast", help="A few steps on a tiny model: a test of the script.")] = False,
) -> None:
    """Train, measure and write the pair."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    material = Material.read(folder, seed=seed, size=FAST if fast else Size())
    found = make(material, out=out, work=work, rates=(rate_base, rate_tuned))
    (out / "accuracy.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "WORDNET_LICENSE").write_text(wordnet.licence(folder))
    write_lines(out / "prompts.jsonl", evaluate.raw_prompts(material.unseen, seed=seed + 2, passages=1))
    write_lines(work / "prompts.jsonl", evaluate.raw_prompts(material.unseen, seed=seed + 3, passages=5))
    show(found)


def make(material: Material, *, out: Path, work: Path, rates: tuple[float, float]) -> dict[str, Any]:
    """Train both models, write them, and return what was measured."""
    size, seed = material.size, material.seed
    tokenizer = train.train_tokenizer(material.corpus(), vocabulary=size.vocabulary, folder=out / "base")
    train.save_tuned_tokenizer(tokenizer, out / "tuned")
    model = train.new_model(tokenizer, seed=seed, n_layers=size.n_layers, d_model=size.d_model)
    found: dict[str, Any] = {"parameters": model.num_parameters(), "tokens": {}}

    def texts(number: int) -> list[train.Batch]:
        return material.text_round(number, tokenizer)

    optimizers = train.base_optimizers(model, rate=rates[0])
    found["tokens"]["base"] = trained("base", model, optimizers, texts, cycles=size.cycles_base, work=work)
    model = train.save(model, out / "base")
    found["base"] = measure(model, tokenizer, material, prompts=("raw",))

    def asked(number: int) -> list[train.Batch]:
        pool = material.example_round(number)
        return train.example_batches(tokenizer, pool, rng=random.Random(number), tokens=size.batch_tokens)

    write_lines(
        work / "tuning.jsonl", (asdict(e) for n in range(sum(size.cycles_tuned)) for e in material.example_round(n))
    )
    optimizers = train.tuning_optimizers(model, rate=rates[1])
    found["tokens"]["tuned"] = trained("tuned", model, optimizers, asked, cycles=size.cycles_tuned, work=work)
    model = train.save(model, out / "tuned")
    found["tuned"] = measure(model, tokenizer, material, prompts=("raw", "chat", "new_phrasing"))
    found["change"] = evaluate.relative_changes(out / "base", out / "tuned")
    return found


def write_lines(path: Path, records: Any) -> None:
    """Records as JSON, one a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def show(found: dict[str, Any]) -> None:
    """The measurements as a table."""
    table = Table(
        "kind", "base", "tuned", "tuned, chat", "tuned, new phrasing", title="Right answers on held-out words"
    )
    for kind in passages.KINDS:
        tuned = found["tuned"]["accuracy"]
        cells = (found["base"]["accuracy"]["raw"], tuned["raw"], tuned["chat"], tuned["new_phrasing"])
        table.add_row(kind, *(f"{cell[kind]['right']:.0%}" for cell in cells))
    console = Console()
    console.print(table)
    console.print({key: found[key] for key in ("parameters", "tokens", "change")})
    console.print({name: found[name]["perplexity"] for name in ("base", "tuned")})


if __name__ == "__main__":
    typer.run(main)
