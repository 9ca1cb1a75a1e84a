"""Accuracy against gentleness: the shipped base, tuned at several peak rates, lengths and seeds, and in other ways.

    python experiments/toy_pair/curve.py                      writes experiments/toy_pair/curve.json
    python experiments/toy_pair/curve.py --device cuda --processes 12
    python experiments/toy_pair/curve.py --fast --work DIR --out FILE       the same steps in seconds

Every point starts from the same base and is tuned as `run.py` tunes, but for what its name says. It is scored on the
100 held-out prompts a kind that the model card reports, and on 100 others (`again`), so that a point chosen on the
first can be judged on the second. The knee is the point farthest above the chord between the curve's ends; gentleness
first: the farthest among those in which no matrix moved by 15 % of its norm.
"""

import functools
import json
import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import evaluate
import instructions
import run
import torch
import train
import typer
import ways
import wordnet
from passages import KINDS
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BASE = run.PACKAGE_FOLDER / "base"
OUT = Path(__file__).with_name("curve.json")
WORK = Path(__file__).with_name("out") / "curve"
RATES = "1e-4,1.8e-4,2.5e-4,3.5e-4,5e-4,7e-4,1e-3"
ROUNDS = "4,8,12"  # the base has 5.1 times the tokens of 12
LIMIT = 0.15  # of the largest change of a matrix


def worded(option: str, value: Any) -> str:
    """An option of a tuning as its name says it."""
    if value is True:
        return option
    return f"{option} {'+'.join(value) if isinstance(value, tuple) else f'{value:g}'}"


@dataclass(frozen=True)
class Point:
    """One tuning; what is not given is as in the shipped pair."""

    rate: float = 3.5e-4
    rounds: int = 12
    seed: int = 0  # of the examples; the held-out words and the prompts stay
    batch: float = 1.0  # of the shipped tokens a batch
    beta: float = 0.98
    rank: int = 0  # of `ways.LowRank`; 0: all weights
    lars: bool = False
    limit: float = 0.0  # of `ways.Within`; 0: none
    first: float = 1.0  # weight of a response's first tokens
    more: tuple[str, ...] = ()  # kinds that are drawn twice as often

    @property
    def name(self) -> str:
        """The rate, and what differs from the shipped pair."""
        plain = asdict(Point())
        differs = {k: v for k, v in asdict(self).items() if k != "rate" and v != plain[k]}
        return ", ".join((f"{self.rate:.1e}".replace("e-0", "e-"), *(worded(k, v) for k, v in differs.items())))

    @property
    def on_the_curve(self) -> bool:
        """Whether it differs from the shipped pair in its rate alone."""
        return self == Point(rate=self.rate)


SHORT = ("quote", "list")  # the kinds that the shipped pair nearly does
TRIED = (
    *(Point(rate, limit=0.145) for rate in (5e-4, 7e-4, 1e-3, 2e-3)),
    *(Point(rate, rank=8) for rate in (1e-3, 2e-3, 4e-3)),
    *(Point(rate, rank=32) for rate in (5e-4, 1e-3, 2e-3)),
    *(Point(rate, lars=True) for rate in (5e-4, 1e-3, 2e-3)),
    *(Point(rate, batch=4.0) for rate in (5e-4, 1e-3)),
    Point(beta=0.999),
    *(Point(first=weight) for weight in (3.0, 10.0)),
    Point(more=SHORT),
    Point(first=3.0, more=SHORT),
    Point(beta=0.999, more=SHORT),
    *(Point(rate, lars=True, more=SHORT) for rate in (1e-3, 1.4e-3)),
    *(Point(rate, limit=0.145, more=SHORT) for rate in (5e-4, 7e-4, 1e-3)),
    *(Point(1e-3, seed=seed, limit=0.145, more=SHORT) for seed in (1, 2)),
    Point(1e-3, limit=0.12, more=SHORT),
    *(Point(rate, beta=0.999, limit=0.145, more=SHORT) for rate in (5e-4, 1e-3)),
    *(Point(1e-3, limit=0.145, first=3.0, more=more) for more in ((), SHORT)),
)


def points_of(rates: Sequence[float], rounds: Sequence[int], seeds: Sequence[int]) -> list[Point]:
    """The curve, then lengths and seeds at the shipped rate."""
    shipped = Point()
    made = [
        *(Point(rate) for rate in rates),
        *(replace(shipped, rounds=n) for n in rounds),
        *(replace(shipped, seed=seed) for seed in seeds),
    ]
    return list(dict.fromkeys(made))


def tune(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, point: Point, material: run.Material, *, work: Path
) -> int:
    """Tune the model in place and return the tokens."""

    def asked(number: int) -> list[train.Batch]:
        named = f"{material.seed}-tuned-{number}" + (f"-{point.seed}" if point.seed else "")
        size, kinds = material.size, (*KINDS, *point.more)
        pool = instructions.examples(material.seen, random.Random(named), size.examples_a_round, kinds=kinds)
        return train.example_batches(
            tokenizer, pool, rng=random.Random(number), tokens=int(point.batch * size.batch_tokens)
        )

    torch.manual_seed(point.seed)
    trained = ways.add_low_rank(model, rank=point.rank) if point.rank else list(model.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        ways.Lars(trained, lr=point.rate)
        if point.lars
        else torch.optim.AdamW(trained, lr=point.rate, betas=(0.9, point.beta), weight_decay=0.0)
    ]
    if point.limit:
        optimizers.append(ways.Within([p for p in trained if p.ndim == 2], limit=point.limit))
    loss = functools.partial(ways.first_loss, weight=point.first) if point.first != 1 else train.learned_loss
    tokens: list[int] = []
    train.fit(
        model,
        optimizers,
        asked,
        cycles=(point.rounds,),
        checkpoint=work / "checkpoint.pt",
        report=lambda _number, _loss, n: tokens.append(n),
        loss_of=loss,
    )
    if point.rank:
        ways.merge_low_rank(model)
    return sum(tokens)


def on(model: LlamaForCausalLM, device: str) -> LlamaForCausalLM:
    """The model, moved to a device."""
    torch.nn.Module.to(model, device)
    return model


def shares(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """The right responses of each kind."""
    return {kind: cell["right"] for kind, cell in scores.items()}


def measure(point: Point, material: run.Material, *, base: Path, work: Path, device: str) -> dict[str, Any]:
    """Tune the base and say how far it moved, what it answers and what it still predicts; read if already there."""
    folder = work / point.name.replace(", ", "_").replace(" ", "-")
    result = folder / "point.json"
    if result.is_file():
        return json.loads(result.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.pt").unlink(missing_ok=True)  # a point is small: one that was stopped begins again
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model = on(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), device)
    tokens = tune(model, tokenizer, point, material, work=folder)
    (folder / "checkpoint.pt").unlink()
    model = on(train.save(on(model, "cpu"), folder / "tuned"), device)
    n, seed = material.size.n_scored, material.seed
    sides = {
        "right": material.scored()["raw"],
        "again": evaluate.held_out_examples(material.unseen, seed=seed + 100, n=n, phrasings="train", chat=False),
    }
    texts = material.held_out_texts()
    found = {
        "name": point.name,
        "point": asdict(point),
        "tokens": tokens,
        "change": {k: round(v, 5) for k, v in evaluate.relative_changes(base, folder / "tuned").items()},
        "perplexity": {name: round(evaluate.perplexity(model, tokenizer, t), 2) for name, t in texts.items()},
        **{side: shares(evaluate.score(model, tokenizer, examples)) for side, examples in sides.items()},
    }
    result.write_text(json.dumps(found))
    return found


@functools.cache
def material_of(folder: Path, size: run.Size) -> run.Material:
    """WordNet, read once a process; the seed is the shipped pair's, whose base did not read the held-out words."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    return run.Material.read(folder, seed=0, size=size)


def one_point(point: Point, folder: Path, size: run.Size, base: Path, work: Path, device: str) -> dict[str, Any]:
    """`measure`, in a process of its own."""
    return measure(point, material_of(folder, size), base=base, work=work, device=device)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The mean of the kinds, on each draw of prompts, and how many of them are right in 80 %."""
    return {
        **{f"mean_{side}": mean(found[side].values()) for side in ("right", "again")},
        **{f"kinds_{side}": sum(v >= 0.8 for v in found[side].values()) for side in ("right", "again")},
    }


def above_chord(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """How far each point lies above the chord between the ends; xs ascend.

    Raises ValueError for fewer than three points.
    """
    if len(xs) < 3:
        raise ValueError(f"a knee needs three points, {len(xs)} given")
    slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    return [y - ys[0] - slope * (x - xs[0]) for x, y in zip(xs, ys, strict=True)]


def knees(points: Iterable[dict[str, Any]]) -> dict[str, str | None]:
    """The point of the curve that is farthest above its chord, and the farthest of those that are gentle.

    The curve is right answers, on both draws of prompts, against the median change.
    """
    curve = sorted((p for p in points if point_of(p).on_the_curve), key=lambda p: p["change"]["median"])
    if len(curve) < 3:
        return {"knee": None, "gentle": None}
    right = [mean((*p["right"].values(), *p["again"].values())) for p in curve]
    ranked = sorted(zip(above_chord([p["change"]["median"] for p in curve], right), range(len(curve)), strict=True))
    best_first = [curve[i] for _, i in reversed(ranked)]
    gentle = (p["name"] for p in best_first if p["change"]["max"] < LIMIT)
    return {"knee": best_first[0]["name"], "gentle": next(gentle, None)}


def point_of(found: dict[str, Any]) -> Point:
    """What was tuned, from what was measured."""
    options = dict(found["point"])
    options["more"] = tuple(options["more"])
    return Point(**options)


def numbers(text: str) -> list[float]:
    """Numbers that commas part."""
    return [float(part) for part in text.split(",") if part]


def main(
    folder: Annotated[Path, typer.Option("--wordnet", help="Debian: package wordnet-base.")] = wordnet.DEFAULT_FOLDER,
    base: Annotated[Path, typer.Option(help="The base that is tuned.")] = BASE,
    out: Annotated[Path, typer.Option(help="The file of measurements.")] = OUT,
    work: Annotated[Path, typer.Option(help="Weights and measurements of each point; a stopped run goes on.")] = WORK,
    rates: Annotated[str, typer.Option(help="Peak rates, at the shipped length.")] = RATES,
    rounds: Annotated[str, typer.Option(help="Lengths in rounds, at the shipped rate.")] = ROUNDS,
    seeds: Annotated[str, typer.Option(help="Seeds of the examples, at the shipped rate.")] = "0,1,2",
    tried: Annotated[bool, typer.Option(help="Also the other ways (`TRIED`).")] = True,
    device: str = "cpu",
    processes: Annotated[int, typer.Option(help="Points at a time.")] = 1,
    fast: Annotated[bool, typer.Option("--fast", help="A few steps a point: a test of the script.")] = False,
) -> None:
    """Tune, measure, write and print."""
    size = run.FAST if fast else run.Size()
    points = points_of(numbers(rates), [int(n) for n in numbers(rounds)], [int(n) for n in numbers(seeds)])
    points = [*points, *TRIED] if tried else points
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(one_point, p, folder, size, base, work, device): p for p in points}
        for job in as_completed(jobs):
            typer.echo(f"{jobs[job].name}: {json.dumps(summary(job.result()))}")
    results = {point: job.result() for job, point in jobs.items()}
    measured = [results[p] for p in points]
    found = {"device": machine(device), **knees(measured), "points": measured}
    out.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def machine(device: str) -> str:
    """What it ran on, in words."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def show(found: dict[str, Any]) -> None:
    """The points as a table, those of the curve first."""
    table = Table("tuning", "median change", "largest", "right", "again", "at 80 %", "entries", "passages", "tokens")
    for p in found["points"]:
        s = summary(p)
        table.add_row(
            p["name"],
            *(f"{p['change'][k]:.1%}" for k in ("median", "max")),
            *(f"{s[f'mean_{side}']:.1%}" for side in ("right", "again")),
            f"{s['kinds_right']}, {s['kinds_again']}",
            *(f"{p['perplexity'][k]:.1f}" for k in ("entries", "passages")),
            f"{p['tokens'] / 1e6:.2f} M",
        )
    console = Console(width=140)
    console.print(table)
    console.print(f"knee: {found['knee']}; with no change of {LIMIT:.0%} or more: {found['gentle']}")


if __name__ == "__main__":
    typer.run(main)
