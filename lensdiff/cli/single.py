"""One analysis of a pair: a table on the terminal, its tables as Parquet and a page in the output directory.

Each command is a run with one analysis: stopped, it goes on where it was; with other options it replaces its own
results.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from lensdiff.cli import options as o
from lensdiff.cli.output import Terminal, complain, print_frame, write, write_notice


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
    deletion_draws: int = typer.Option(8, min=0, help="Random deletions beside each map's own; 0: no check."),
    controls: int = typer.Option(0, min=0, help="Gradient-noise controls whose own responses are attributed, too."),
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """Which prompt words drive the response, in both models."""
    keys = o.prompt_keys(prompt, instruction, context, response, prompts) | {
        "attribution": {"target": target, "method": method, "deletion_draws": deletion_draws},
        "max_new_tokens": max_new_tokens,
        "controls": {"attribution": controls},
    }
    store = _run("attribution", base, tuned, out, keys, seed, device, dtype, quiet)
    _finish(store, "attribution", {"Attribution": "attribution_summary"}, ["attribution", "instruction_scores"])


def instruction_use(
    base: o.Base,
    tuned: o.Tuned,
    prompts: o.Prompts,
    out: o.Out = Path("lensdiff-instruction-use"),
    draws: int = typer.Option(8, min=1, help="Other prompts whose instructions take the prompt's place."),
    max_tokens: int = typer.Option(64, min=1, help="Tokens of each own response that are read."),
    max_new_tokens: o.MaxNewTokens = 300,
    controls: o.Controls = 19,
    kinds: o.Kinds = o.KINDS,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """How far responses depend on their instruction.

    The same texts are forced in both models, after the prompt and after it with another instruction, or with none.
    """
    keys = o.prompt_keys(None, None, None, None, prompts) | {
        "instruction_use": {"draws": draws, "max_tokens": max_tokens},
        "max_new_tokens": max_new_tokens,
        "controls": o.controls(kinds, prompts=controls),
    }
    store = _run("instruction_use", base, tuned, out, keys, seed, device, dtype, quiet)
    title = "Instruction use, nats per token"
    tables = ["instruction_use", "instruction_use_differences", "control_validity"]
    _finish(store, "instruction_use", {title: "instruction_use_summary"}, tables)


def outputs(
    base: o.Base,
    tuned: o.Tuned,
    out: o.Out = Path("lensdiff-outputs"),
    prompt: o.Prompt = None,
    instruction: o.Instruction = None,
    context: o.Context = None,
    response: o.Response = None,
    prompts: o.Prompts = None,
    max_new_tokens: o.MaxNewTokens = 300,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """Which response tokens tuning changed.

    Both models read the tuned model's response.
    """
    keys = o.prompt_keys(prompt, instruction, context, response, prompts) | {"max_new_tokens": max_new_tokens}
    store = _run("outputs", base, tuned, out, keys, seed, device, dtype, quiet)
    _finish(store, "outputs", {"Outputs: tokens at which the models differ most": "outputs_summary"}, ["outputs"])


def attention(
    base: o.Base,
    tuned: o.Tuned,
    out: o.Out = Path("lensdiff-attention"),
    prompt: o.Prompt = None,
    instruction: o.Instruction = None,
    context: o.Context = None,
    response: o.Response = None,
    prompts: o.Prompts = None,
    layers: o.Layers = None,
    sink: str = typer.Option("apart", help="apart: the first token counts for no part; counted: where it lies."),
    max_new_tokens: o.MaxNewTokens = 300,
    controls: o.Controls = 19,
    kinds: o.Kinds = o.KINDS,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """Where each head looks, and how tuning moved that.

    All models read the tuned model's response; meaningless changes of the same size stand beside the real one.
    """
    keys = o.prompt_keys(prompt, instruction, context, response, prompts) | {
        "attention": {"layers": o.layer_list(layers), "sink": sink},
        "max_new_tokens": max_new_tokens,
        "controls": o.controls(kinds, attention=controls),
    }
    store = _run("attention", base, tuned, out, keys, seed, device, dtype, quiet)
    title = "Attention: heads that moved most"
    _finish(store, "attention", {title: "attention_summary"}, ["attention", "attention_shift"])


def heads(
    base: o.Base,
    tuned: o.Tuned,
    out: o.Out = Path("lensdiff-heads"),
    vocabulary: o.Vocabulary = "default",
    vectors: o.Vectors = "base",
    layers: o.Layers = None,
    top_k: int = typer.Option(100, min=1, help="Candidate words per dimension and side."),
    layers_per_group: int = typer.Option(8, min=1, help="Layers that the verbs' statistic takes together."),
    controls: o.Controls = 19,
    kinds: o.Kinds = o.KINDS,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """Which words each head relates, and what changed."""
    keys = {
        "vocabulary": vocabulary,
        "vectors": vectors,
        "heads": {"layers": o.layer_list(layers), "top_k": top_k, "layers_per_group": layers_per_group},
        "controls": o.controls(kinds, heads=controls),
    }
    store = _run("heads", base, tuned, out, keys, seed, device, dtype, quiet)
    tables = {"Heads whose word pairs changed most": "heads_summary", "Instruction verbs": "verbs_summary"}
    _finish(store, "heads", tables, ["heads", "verb_shift", "pair_overlap", "ov_reading"])


def mlp(
    base: o.Base,
    tuned: o.Tuned,
    out: o.Out = Path("lensdiff-mlp"),
    vocabulary: o.Vocabulary = "default",
    vectors: o.Vectors = "base",
    layers: o.Layers = None,
    sides: str = typer.Option("value", help="Of value, key and gate, joined by commas."),
    components: int = typer.Option(300, min=1, help="Principal components per layer and side."),
    ranks: str = typer.Option("1,5,10,20,50", help="Ranks of the subspaces that are compared."),
    controls: o.Controls = 99,
    kinds: o.Kinds = o.KINDS,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """Which concepts layers hold, and how far they turned."""
    wanted = o.number_list("--ranks", ranks)
    if components < min(wanted):
        raise typer.BadParameter(f"--ranks {ranks!r} names no rank up to --components {components}")
    keys = {
        "vocabulary": vocabulary,
        "vectors": vectors,
        "mlp": {
            "layers": o.layer_list(layers),
            "sides": [side.strip() for side in sides.split(",")],
            "n_components": components,
            "ranks": [rank for rank in wanted if rank <= components],
        },
        "controls": o.controls(kinds, rotation=controls),
    }
    store = _run("mlp", base, tuned, out, keys, seed, device, dtype, quiet)
    tables = {
        "Share of the values' change that is a rotation": "value_rotation_summary",
        "Rotation of concepts, angles in radians": "rotation_summary",
    }
    _finish(store, "mlp", tables, ["concepts", "value_rotation", "rotation", "matched_components", "coherence"])


def weights(
    base: o.Base,
    tuned: o.Tuned,
    out: o.Out = Path("lensdiff-weights"),
    device: o.Device = "auto",
    dtype: o.DType = "float32",
    quiet: o.Quiet = False,
) -> None:
    """How far each weight matrix and head moved."""
    store = _run("weights", base, tuned, out, {}, 0, device, dtype, quiet)
    _finish(store, "weights", {"Weights that moved most": "weights_summary"}, ["weights"])


def _run(
    analysis: str,
    base: str,
    tuned: str,
    out: Path,
    keys: dict[str, Any],
    seed: int,
    device: str,
    dtype: str,
    quiet: bool,
) -> Any:
    from lensdiff.pipeline.execute import STEPS, execute
    from lensdiff.pipeline.toml import check_config
    from lensdiff.results import InputError

    values = {"base": base, "tuned": tuned, "out": str(out), "analyses": [analysis], "seed": seed}
    values |= {"device": device, "dtype": dtype} | keys
    config = check_config(values, "the command's options")
    terminal = Terminal(quiet=quiet)
    with terminal.watching():
        store = execute(config, listener=terminal, command=analysis, estimate=not quiet)
    states = [store.step(step.name) for step in STEPS]  # in order, so that a cause comes before what followed from it
    if failed := [state.note for state in states if state.state == "failed"]:
        raise InputError(failed[0])
    failures = {unit.partition("/")[2]: reason for state in reversed(states) for unit, reason in state.failures.items()}
    for prompt_id, reason in failures.items():
        complain(f"without prompt {prompt_id!r}: {reason}")
    return store


def _finish(store: Any, name: str, summaries: dict[str, str], tables: Sequence[str]) -> None:
    """Show the command's tables, put them and its page at the top of the directory, and say where they are."""
    from lensdiff.cli import products

    write_notice(store)
    for title, summary in summaries.items():
        of: Callable[[Any], Any] = getattr(products, summary)
        print_frame(title, of(store))
    for table in tables:
        if store.has_table(table):
            write(str(store.publish(table)))
    write(str(store.write_text(f"{name}.html", products.sections_page(store, f"lensdiff {name}"))))
