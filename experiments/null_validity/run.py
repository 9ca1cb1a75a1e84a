"""Tests the null models: python -m experiments.null_validity.run [--fast] [--pairs N] [--out DIR].

Pairs that were tuned on nothing, and pairs with a planted effect of growing size, each beside controls that
`pair.control` makes; README.md says how to read the table. A group of pairs is written when it is done, and a run that
was stopped goes on with the next one.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from experiments.null_validity.changes import changed, rescaled
from experiments.null_validity.groups import SIZES, Group, base_of, fast_groups, null_groups, planted_groups
from experiments.null_validity.measures import FIRST_PAIR, Measures, Setting
from experiments.null_validity.table import tables, write_docs, write_tables
from lensdiff.stats import FEWEST_FOR_RANK
from lensdiff.views.csv_text import csv_text

CONTROLS = 20  # of a kind; of those that are pairs too, 19 are left beside each
RECIPE = {"steps": 20, "batch": 8, "length": 48}  # of distilled controls
FAST_RECIPE = {"steps": 6, "batch": 8, "length": 24}
FIRST_SEED = 10_000  # of controls: no pair has it


def rows_of(
    group: Group, setting: Setting, controls: int, cache: Path, recipe: dict[str, int]
) -> Iterator[dict[str, object]]:
    """Yield the statistics of every pair of a group and of its controls, one row each."""
    own = base_of(group, setting)
    measures = Measures(own, own.model, group.claims)
    first = group.make(own, 0)
    reference = measures.pair(changed(own.model, first))
    yield {"group": group.name, "role": "pair", "seed": 0, **measures.of_model(reference)}
    for seed in range(1, group.n):
        change = group.make(own, seed)
        pair = measures.pair(changed(own.model, rescaled(change, first) if group.rescaled else change))
        yield {"group": group.name, "role": "pair", "seed": seed, **measures.of_model(pair)}
    for kind in group.kinds:
        options = {"distilled": recipe | {"cache": cache}, "gradient-noise": {"cache": cache}}.get(kind, {})
        for seed in range(FIRST_SEED, FIRST_SEED + controls):
            control = reference.control(kind, seed, **options)
            yield {"group": group.name, "role": kind, "seed": seed, **measures.of_control(control)}


def effects_of(group: Group, setting: Setting, controls: int, out: Path, recipe: dict[str, int]) -> pd.DataFrame:
    """Return a group's rows, from disk where they are there."""
    name = "".join(c if c.isalnum() else "-" for c in group.name.lower())
    path = out / "effects" / f"{name}.csv"
    if path.is_file():
        return pd.read_csv(path)
    start = time.perf_counter()
    found = pd.DataFrame(rows_of(group, setting, controls, out / "controls", recipe))
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_suffix(".part")
    waiting.write_text(csv_text(found, float_format=None), encoding="utf-8", newline="")
    waiting.rename(path)
    print(f"{group.name}: {group.n} pairs, {time.perf_counter() - start:.0f} s", flush=True)
    return pd.read_csv(path)


def main(argv: list[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    setting = Setting(options.base, options.prompts)
    torch.set_num_threads(1)  # matrices of 128 columns gain nothing from more
    recipe, controls = (FAST_RECIPE, FEWEST_FOR_RANK) if options.fast else (RECIPE, options.controls)
    groups = fast_groups() if options.fast else _chosen(options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks an old name
        found = [
            effects_of(group, setting, FEWEST_FOR_RANK if group.planted else controls, options.out, recipe)
            for group in groups
        ]
    result = tables(groups, pd.concat(found, ignore_index=True))
    write_tables(result, options.out, controls=controls)
    if options.docs:
        write_docs(result, options.docs)
    print((options.out / "null_validity.md").read_text(encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.null_validity.run")
    parser.add_argument("--base", type=Path, default=FIRST_PAIR / "base", help="a folder with a Llama checkpoint")
    parser.add_argument(
        "--prompts", type=Path, default=FIRST_PAIR / "prompts.jsonl", help="prompts with kind and reference"
    )
    parser.add_argument("--pairs", type=int, help=f"null pairs of every recipe (default: {sum(SIZES.values())} in all)")
    parser.add_argument("--controls", type=int, default=CONTROLS, help="of every kind beside null pairs, at least 20")
    parser.add_argument("--planted", type=int, default=5, help="pairs of every planted size; 0 for none")
    parser.add_argument("--fast", action="store_true", help="20 null pairs and one planted, the rotation alone")
    parser.add_argument("--only", default="", help="groups whose name contains this")
    parser.add_argument("--docs", type=Path, help="a page whose table is written anew")
    parser.add_argument("--out", type=Path, default=Path("results/experiments/null_validity"))
    return parser


def _chosen(options: argparse.Namespace) -> list[Group]:
    sizes = SIZES if options.pairs is None else {name: int(options.pairs) for name in SIZES}
    groups = null_groups(sizes) + (planted_groups(options.planted) if options.planted else [])
    return [group for group in groups if options.only in group.name]


if __name__ == "__main__":
    main()
