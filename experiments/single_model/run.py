"""What one model takes on a laptop: opening it, one attribution, and the word pairs of four layers.

    python -m experiments.single_model.run MODEL [--layers 0,9,18,27] [--prompt-tokens 20] [--response-tokens 34]

MODEL is a folder, a GGUF file or a hub name. Printed are processor and wall seconds of each part, and the largest
resident memory until its end; `--out FILE` writes them as JSON. The response is given, so that its length is known.
"""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from lensdiff import Prompt, attribute, head_word_pairs, load_model
from lensdiff.models import view_of

TEXT = (
    "Write a function that returns the largest number of a list, and say in one sentence how it works and what it does"
    " with an empty list. Then give two short examples of how it is called, and what each of them returns when it is"
    " run by a student who has never written a line of code before."
)
KIB = 1024


def peak() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB


def cut(tokenizer: Any, text: str, n_tokens: int) -> str:
    """Return the beginning of a text that has so many tokens, special ones not counted."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < n_tokens:
        raise SystemExit(f"the text has {len(ids)} tokens, {n_tokens} were asked for")
    return tokenizer.decode(ids[:n_tokens])


def main(
    model: Annotated[str, typer.Argument(help="Folder, GGUF file or hub name.")],
    layers: Annotated[str, typer.Option(help="Whose heads are read.")] = "0,9,18,27",
    prompt_tokens: int = 20,
    response_tokens: int = 34,
    dtype: str = "float32",
    threads: int = 2,
    out: Annotated[Path | None, typer.Option(help="A JSON file that the numbers are written to.")] = None,
) -> None:
    """Open one model, attribute one response, read the heads of some layers."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []

    def measured(name: str, run: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = run()
        seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        rows.append({"part": name, **seconds, "peak_mib": peak()})
        return found

    opened = measured("open", lambda: load_model(model, dtype=dtype, device="cpu"))
    tokenizer = view_of(opened).tokenizer
    assert tokenizer is not None
    prompt = cut(tokenizer, TEXT, prompt_tokens)
    answer = cut(tokenizer, TEXT[len(prompt) :], response_tokens)
    found = measured("attribute", lambda: attribute(opened, Prompt(prompt), answer))
    asked = [int(layer) for layer in layers.split(",")]
    measured(f"word pairs of {len(asked)} layers", lambda: head_word_pairs(opened, layers=asked))
    console, table = Console(), Table(title=f"{view_of(opened).info.id}: {tuple(found.scores.shape)} scores")
    for column in ("part", "CPU, s", "wall, s", "peak, MiB"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in rows:
        table.add_row(row["part"], f"{row['cpu_s']:.0f}", f"{row['wall_s']:.0f}", f"{row['peak_mib']:.0f}")
    console.print(table)
    if out is not None:
        about = {"model": model, "threads": threads, "dtype": dtype, "torch": torch.__version__}
        out.write_text(json.dumps(about | {"parts": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
