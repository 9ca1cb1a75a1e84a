"""What the experiments share: a claim's config and a pair become a run of the pipeline, and numbers become tables.

An experiment is a folder with `config.toml` (keys of `lensdiff run`, the same for every pair) and `run.py`. The pair
comes from `pairs.toml`. The tables that are printed lie in `results/experiments/<claim>/<pair>/*.csv`, with the same
names and columns for every pair. What they are made of lies in `results/experiments/runs/<run>/<pair>`, a results
directory with its report: claims that name the same `run` in their config share it, so that it is made once.
"""

import argparse
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensdiff import stats
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.claims.result import Claims
from lensdiff.analyses.claims.words import Name
from lensdiff.analyses.published.tables import Sample
from lensdiff.cli.output import Terminal, complain, print_frame, write
from lensdiff.inputs.published import Published, load_published
from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.report import Report
from lensdiff.pipeline.toml import check_config
from lensdiff.results import InputError
from lensdiff.steps.found import Found
from lensdiff.views.csv_text import csv_text

HERE = Path(__file__).parent
FEWEST_TOKENS = 5  # of a response that Table 1 counts, as in the paper


@dataclass(frozen=True)
class Experiment:
    """One claim on one pair, or on the published material.

    Attributes:
        claim: the folder's name; pair: the pair's, or "published"; label: what the pair is.
        config: of the run; out: where tables go; options: the command line's.
        published: the clone of the authors' repository, where it was asked for.
        fewest_tokens: the shortest response that counts in Table 1.
    """

    claim: str
    pair: str
    label: str
    config: RunConfig
    out: Path
    options: argparse.Namespace
    published: Published | None
    fewest_tokens: int

    def run(self) -> Found:
        """Run what is not there yet, after saying what it costs, write the report, and return what was found.

        Raises:
            InputError: an input is unusable, or a step of the run failed.
        """
        write(f"{self.claim} on {self.label}")
        terminal = Terminal(quiet=False)
        with terminal.watching():
            store = execute(self.config, listener=terminal, command="experiment")
        failed = [f"{name}: {step.note}" for name, step in store.manifest.steps.items() if step.state == "failed"]
        if failed:
            raise InputError("; ".join(failed))
        write(f"report: {Report(store).save()}")
        return Found(store)

    def table(self, name: str, title: str, frame: Any) -> None:
        """Print a data frame and keep it as <name>.csv."""
        print_frame(title, frame, rows=60)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8", newline="")

    def answer(self, found: Found, name: Name) -> None:
        """Print the claim's answer for this pair, with every kind of control beside it."""
        answers = found.one("claims", Claims)
        (claim,) = [claim for claim in answers.claims if claim.name == name]
        beside: Any = answers.controls()
        title = "Not in the paper: the claim's number beside each kind of control"
        self.table("claim_controls", title, beside[beside["claim"] == name].assign(effect=claim.effect))
        write(f"{claim.statement} [{claim.verdict}]")


def read(
    file: str,
    argv: Sequence[str] | None,
    *,
    published: bool = True,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Experiment:
    """Read an experiment's config and the command line.

    Args:
        file: the experiment's `run.py`; its first docstring line is the command's help.
        argv: the command line, None for the program's own.
        published: whether the authors released material for this claim.
        more: adds options of the claim's own.

    Raises:
        InputError: the pair is not in `pairs.toml`, or the config is unusable.
    """
    folder = Path(file).resolve().parent
    options = _parser(folder.name, published, more).parse_args(argv)
    pairs = tomllib.loads((HERE / "pairs.toml").read_text(encoding="utf-8"))
    if options.pair not in pairs:
        raise InputError(f"there is no pair {options.pair!r} in pairs.toml, available: {', '.join(pairs)}")
    values: dict[str, Any] = dict(pairs[options.pair])
    label, fewest = values.pop("label"), values.pop("fewest_tokens", FEWEST_TOKENS)
    clone = getattr(options, "published", None)
    name = "published" if clone else options.pair
    root = Path(options.out).absolute()
    values |= tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    values["out"] = str(root / "runs" / values.pop("run") / name)
    config = check_config(_overridden(values, options), f"{folder.name}/config.toml").at(HERE)
    return Experiment(
        folder.name,
        name,
        label,
        config,
        root / folder.name / name,
        options,
        load_published(clone) if clone else None,
        fewest,
    )


def _parser(
    claim: str, published: bool, more: Callable[[argparse.ArgumentParser], None] | None
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{claim}.run")
    parser.add_argument("--pair", default="toy", help="a pair of experiments/pairs.toml (default: toy)")
    if published:
        parser.add_argument("--published", metavar="DIR", help="a clone of the authors' repository, instead of a pair")
    parser.add_argument("--out", default="results/experiments", help="tables go to OUT/<claim>/<pair>")
    parser.add_argument("--base", help="another place of the pair's base model: folder, hub name or .gguf file")
    parser.add_argument("--tuned", help="another place of its tuned model, or a folder with a LoRA adapter")
    parser.add_argument("--prompts", help="other prompts: a .jsonl file, or the paper's FinalDataset.tsv")
    parser.add_argument("--max-prompts", type=int, help="the first N prompts")
    parser.add_argument("--max-new-tokens", type=int, help="most tokens of a response")
    parser.add_argument("--controls", type=int, help="control models of each kind; a band needs 19, a verdict 59")
    if more:
        more(parser)
    return parser


def _overridden(values: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return the config with what the command line says; its paths are relative to where it was typed."""
    for key in ("base", "tuned", "prompts"):
        if given := getattr(options, key):
            values[key] = str(Path(given).absolute()) if Path(given).exists() else given
    for key in ("max_prompts", "max_new_tokens"):
        if (number := getattr(options, key)) is not None:
            values[key] = number
    if options.controls is not None:  # of those that the claim asks for
        asked = [name for name, value in values["controls"].items() if value and name != "kinds"]
        values["controls"] |= dict.fromkeys(asked, options.controls)
    return values


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options that name an OpenAI-compatible server."""
    parser.add_argument("--base-url", help="an OpenAI-compatible server, for example http://localhost:8000/v1")
    parser.add_argument("--model", default="gpt-4o-mini", help="the chat model, as the server knows it")
    formats = "json_schema, json_object or none: what the server understands"
    parser.add_argument("--response-format", default="json_schema", help=formats)


def server(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `Chat.connect` needs to know of the server; the key comes from OPENAI_API_KEY."""
    fixed = {"api_key": None, "temperature": 0.0, "max_tokens": 100, "max_retries": 5, "timeout": 120.0}
    return fixed | {"base_url": options.base_url, "response_format": options.response_format}


def start(main: Callable[[], None]) -> None:
    """Run an experiment as a program: an error is one sentence, exit code 2."""
    try:
        main()
    except InputError as error:
        complain(str(error))
        sys.exit(2)


# what is read from a results directory
def attributions(found: Found, model: str) -> list[Attribution]:
    """Return the attributions of base, tuned or a control."""
    return list(found.each("attribution", Attribution, model))


# tables
def samples(groups: Mapping[str, Mapping[str, Sample]]) -> pd.DataFrame:
    """Return the paper's rows: set, group, mean, std (population), n."""
    rows = [(name, group, s.mean, s.std, s.n) for name, row in groups.items() for group, s in row.items()]
    return pd.DataFrame(rows, columns=["set", "group", "mean", "std", "n"])


def tests(found: Mapping[str, Mapping[str, stats.Test | None]]) -> pd.DataFrame:
    """Return a row per test, given by set and question: estimate, low, high, p, test, n."""
    columns = ["set", "question", "estimate", "low", "high", "p", "test", "n"]
    rows = [(name, question, *_numbers(test)) for name, row in found.items() for question, test in row.items()]
    return pd.DataFrame(rows, columns=columns)


def _numbers(test: stats.Test | None) -> tuple[Any, ...]:
    if test is None:
        return (*[None] * 4, "not possible", "")
    sided = ", one-sided" if test.alternative in ("greater", "less") else ""
    sizes = " + ".join(map(str, test.n))
    return test.estimate, test.low, test.high, test.p, f"{test.name}{sided}", sizes


def controls(effect: float, effects: Sequence[float], kinds: Sequence[str]) -> pd.DataFrame:
    """Return the real change's effect beside that of control models: a row per kind, with median, band and rank p."""
    columns = ["effect", "kind", "n", "median", "low", "high", "p"]
    beside = stats.against_controls(effect, stats.by_kind(effects, kinds)).envelope
    if beside is None:
        return pd.DataFrame([(effect, "no controls", 0, None, None, None, None)], columns=columns)
    rows = [(effect, kind.kind, kind.n, kind.median, kind.low, kind.high, kind.p) for kind in beside.kinds]
    return pd.DataFrame(rows, columns=columns)
