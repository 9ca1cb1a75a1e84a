"""lensdiff beside captum, inseq, TransformerLens and plain loops: one command, one table, one run.

    python -m experiments.benchmarks.table MODEL [--inseq PYTHON] [--json FILE] [--only attribute] [--repeats 3]

MODEL is a folder or hub name of a model that is a HookedTransformer. Every row says what is computed, on what, the best
seconds of lensdiff and of a rival in rounds over all of them, and the rival's over lensdiff's (`compared.py`). Rivals
are given the same model, the same token ids and the same target, and their numbers have to be lensdiff's, or it stops:

    attribute       captum's and inseq's input x gradient, a loop of backward passes (`attribution.py`)
    patch_sweep     TransformerLens's sweep over heads; a loop of whole passes over heads and MLPs (`patching.py`)
    attention, logit_lens, direct_logit_attribution, generate      TransformerLens's own (`neighbours.py`)
    head_word_pairs, mlp_concepts, rotation      plain loops (`heads.py`, `concepts.py`)

lensdiff is called as a user calls it; what it does beside the rival (checks, provenance, further measures) is in its
time. What a model is made of, which it measures once, is not: the first call of each kind is made before the rounds.
PYTHON is that of an environment with inseq, which needs an older transformers. Times are of the processor on one
thread, unless `--clock wall` or `--threads` say otherwise.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments.benchmarks import attribution
from experiments.benchmarks.compared import CLOCKS, Clock, markdown, measured
from experiments.benchmarks.comparisons import GROUPS, Sizes, Subject
from experiments.benchmarks.inseq_rival import running

PACKAGES = ("lensdiff", "torch", "transformers", "transformer-lens", "captum", "scipy")
NO_INSEQ = "no environment that has it was given (--inseq PYTHON)"


def about(subject: Subject, clock: str, threads: int) -> dict[str, Any]:
    """Return what the rows were measured with; `rows` and `left_out` are for what comes."""
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    if subject.inseq is not None:
        versions |= {
            f"inseq's {name}" if name != "inseq" else name: one for name, one in subject.inseq.versions.items()
        }
    return {
        "model": Path(subject.name).name,
        "dtype": "float32",
        "clock": clock,
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "versions": versions,
        "gflop_per_second": [],
        "left_out": {} if subject.inseq is not None else {"inseq": NO_INSEQ},
        "rows": [],
    }


def compare(
    subject: Subject, report: dict[str, Any], clock: Clock, *, only: str, repeats: int, most: float
) -> Iterator[list[dict[str, Any]]]:
    """Fill a report, comparison by comparison; the machine's rate of matrix products stands beside each group."""
    for group in [group for name, group in GROUPS.items() if only in ("", name)]:
        report["gflop_per_second"].append(round(attribution.matmul_rate(clock) / 1e9, 1))
        for comparison in group(subject):
            rows = measured(comparison, clock, repeats=repeats, most=most)
            report["rows"] += rows
            yield rows


def main(
    model: Annotated[str, typer.Argument(help="A folder or hub name of a model that is a HookedTransformer.")],
    inseq: Annotated[Path | None, typer.Option(help="The Python of an environment that has inseq.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="A file that what was measured is written to.")] = None,
    only: Annotated[str, typer.Option(help=f"One group: {', '.join(GROUPS)}.")] = "",
    repeats: Annotated[int, typer.Option(help="Rounds; the best time counts.")] = 3,
    most: Annotated[float, typer.Option(help="Seconds after which a comparison is not gone round again.")] = 90.0,
    threads: int = 1,
    clock: Annotated[str, typer.Option(help=f"{' or '.join(CLOCKS)}: whose seconds.")] = "processor",
) -> None:
    """Compare on one model, and print one table."""
    for name, given, known in (("--only", only, ("", *GROUPS)), ("--clock", clock, tuple(CLOCKS))):
        if given not in known:
            raise typer.BadParameter(f"{given!r} is none of {', '.join(filter(None, known))}", param_hint=name)
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        rival = None if inseq is None else stack.enter_context(running(str(inseq), model, threads))
        subject = Subject(model, Sizes(), rival)
        report = about(subject, clock, threads)
        for rows in compare(subject, report, CLOCKS[clock], only=only, repeats=repeats, most=most):
            for row in rows:
                typer.echo(f"{row['analysis']}, {row['case']}: {row['rival']} {row['ratio']:.2f} x", err=True)
            if out is not None:  # what was measured stays, if a later comparison ends the run
                out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    typer.echo(markdown(report))


if __name__ == "__main__":
    typer.run(main)
