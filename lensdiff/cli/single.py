"""One analysis of a pair: a table on the terminal, its tables as Parquet and a page in the output directory.

Each command is a run with one analysis: stopped, it goes on where it was; with other options it replaces its own
results.
"""

from pathlib import Path
from typing import Any

import typer

from lensdiff.cli import options as o
from lensdiff.cli.output import Terminal, complain, print_frame, write


def attribute(
    base: o.Base,
    tuned: o.Tuned,
    out: o.Out = Path("lensdiff-attribution"),
    prompt: o.Prompt = None,
    instruction: o.Instruction = None,
    context: o.Context = None,
    response: o.Response = None,
    prompts: o.Prompts = None,
    target: str = typer.Option("probability", help="probability, log_probability or logit."),
    method: str = typer.Option("auto", help="forward, reverse, or auto: the cheaper."),
    max_new_tokens: o.MaxNewTokens = 300,
    deletion_draws: int = typer.Option(
        8, min=0, help="Random deletions beside each map's own; 0 leaves the check out."
    ),
    controls: o.Controls = 0,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """Which prompt words drive the response, in both models."""
    keys = o.prompt_keys(prompt, instruction, context, response, prompts) | {
        "attribution": {"target": target, "method": method, "deletion_draws": deletion_draws},
        "max_new_tokens": max_new_tokens,
    }
    store = _run("attribution", base, tuned, out, keys, controls, seed, device, dtype, quiet)
    from lensdiff.cli.products import attribution_page, attribution_summary

    print_frame("Attribution", attribution_summary(store))
    _finish(store, "attribution", ["attribution"], attribution_page(store))


def _run(
    analysis: str,
    base: str,
    tuned: str,
    out: Path,
    keys: dict[str, Any],
    controls: int,
    seed: int,
    device: str,
    dtype: str,
    quiet: bool,
) -> Any:
    from lensdiff.pipeline.execute import execute
    from lensdiff.pipeline.toml import check_config
    from lensdiff.results import InputError

    values = {"base": base, "tuned": tuned, "out": str(out), "analyses": [analysis], "seed": seed} | keys
    values |= {"device": device, "dtype": dtype, "controls": dict.fromkeys(("prompts", "heads", "rotation"), controls)}
    config = check_config(values, "the command's options")
    terminal = Terminal(quiet=quiet)
    with terminal.watching():
        store = execute(config, listener=terminal, command=analysis)
    steps = store.manifest.steps
    for name, state in steps.items():
        for unit, reason in state.failures.items():
            complain(f"{name}: {unit} failed: {reason}")
    failed = [state.note for state in steps.values() if state.state == "failed"]
    if failed:
        raise InputError(failed[0])
    return store


def _finish(store: Any, name: str, tables: list[str], page: Any) -> None:
    """Put the command's tables and page at the top of the directory, and say where they are."""
    for table in tables:
        if store.has_table(table):
            write(str(store.publish(table)))
    if page is not None:
        write(str(store.write_text(f"{name}.html", page)))
