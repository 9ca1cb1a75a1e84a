"""Time and peak memory of analyses of weights that are streamed from a synthetic pair of a large model's shape.

    python experiments/benchmarks/streaming.py --shape 7b --layers 4 --folder /tmp/pair

Two Llamas of random bfloat16 weights, the tuned one 1 % away from the base, are written a layer a shard; each analysis
then runs in a process of its own, whose seconds are those of its processors (a busy machine's are the same), and whose
peak is what the system counted (mapped pages of the checkpoint included, which it takes back where memory is short).
Times are proportional to the number of layers, peaks hardly depend on it.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from lensdiff import Vocabulary, load_pair, mlp_concepts, rotation, weight_shift
from lensdiff.inputs import toy_pair

SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "vocab_size": 32000},
    "small": {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "vocab_size": 4000},
}
CHANGE, SIZE = 0.01, 0.02  # of the base's norm; standard deviation of a weight
ROTATED, CONTROLS = 4, 3  # layers whose concepts are compared, and controls beside them
KIB = 1024


def write(folder: Path, shape: dict[str, int], n_layers: int, *, tuned: bool) -> None:
    """Write one model of the pair: a shard a layer, and one of what is outside of layers."""
    folder.mkdir(parents=True, exist_ok=True)
    d, m, v = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    sizes = {f"self_attn.{x}_proj": (d, d) for x in "qkvo"}
    sizes |= {"mlp.gate_proj": (m, d), "mlp.up_proj": (m, d), "mlp.down_proj": (d, m)}
    outside = {"model.embed_tokens.weight": (v, d), "lm_head.weight": (v, d), "model.norm.weight": (d,)}
    shards: list[dict[str, tuple[int, ...]]] = [outside]
    for layer in range(n_layers):
        own = {f"model.layers.{layer}.{name}.weight": size for name, size in sizes.items()}
        norms = ("input_layernorm", "post_attention_layernorm")
        shards.append(own | {f"model.layers.{layer}.{name}.weight": (d,) for name in norms})
    index: dict[str, str] = {}
    for number, shard in enumerate(shards):
        tensors = {name: drawn(number, i, size, tuned=tuned) for i, (name, size) in enumerate(shard.items())}
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config: dict[str, Any] = shape | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": n_layers,
        "num_key_value_heads": shape["num_attention_heads"],
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for file in toy_pair.BASE.glob("tokenizer*"):  # its words are among the first tokens of the larger vocabulary
        (folder / file.name).write_bytes(file.read_bytes())


def drawn(shard: int, number: int, size: tuple[int, ...], *, tuned: bool) -> torch.Tensor:
    """Return a tensor of the base, or the same with a change."""
    generator = torch.Generator().manual_seed(1000 * shard + number)
    value = torch.randn(size, generator=generator).mul_(SIZE).add_(1.0 if len(size) == 1 else 0.0)
    if tuned:
        value += CHANGE * SIZE * torch.randn(size, generator=generator)
    return value.to(torch.bfloat16)


def measure(name: str, folder: Path, n_layers: int) -> None:
    """Run one analysis; this is a process of its own."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    began = time.process_time()
    pair = load_pair(folder / "base", folder / "tuned", stream=True, dtype="bfloat16", device="cpu")
    opened = time.process_time() - began
    began, done = time.process_time(), n_layers
    if name == "weights":
        weight_shift(pair)
    elif name == "concepts":
        for model in (pair.base, pair.tuned):
            mlp_concepts(model, Vocabulary.default())
    elif name == "rotation":
        done = min(ROTATED, n_layers)
        chosen: Any = {"layers": list(range(done)), "sides": ("value",)}
        base, tuned = (mlp_concepts(model, Vocabulary.default(), **chosen) for model in (pair.base, pair.tuned))
        rotation(base, tuned, controls=[pair.control("spectrum", seed) for seed in range(CONTROLS)])
    print(json.dumps({"opened": opened, "seconds": time.process_time() - began, "layers": done}))


def peak_of(arguments: list[str]) -> tuple[dict[str, float], float]:
    """Run this script as another process and return what it printed, and its peak in MiB."""
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(status)
    return json.loads(said.strip().splitlines()[-1]), used.ru_maxrss / KIB


def main(
    folder: Annotated[Path, typer.Option(help="Where the pair is, or is written.")],
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "7b",
    layers: Annotated[int, typer.Option(help="How many; a 7B model has 32.")] = 4,
    only: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Write the pair, if it is not there, and measure."""
    if only:
        measure(only, folder, layers)
        return
    for side in ("base", "tuned"):
        if not (folder / side / "config.json").is_file():
            write(folder / side, SHAPES[shape], layers, tuned=side == "tuned")
    size = sum(file.stat().st_size for file in folder.glob("*/*.safetensors")) / KIB**3
    table = Table(title=f"{shape}, {layers} layers, {size:.1f} GiB in the files of both models")
    for column in ("analysis", "opened, CPU s", "then, CPU s", "a layer, CPU s", "peak, MiB"):
        table.add_column(column, justify="right" if column != "analysis" else "left")
    for name in ("opening alone", "weights", "concepts", "rotation"):
        found, peak = peak_of(["--folder", str(folder), "--layers", str(layers), "--only", name])
        row = f"{found['opened']:.0f}", f"{found['seconds']:.0f}", f"{found['seconds'] / found['layers']:.1f}"
        table.add_row(name, *row, f"{peak:.0f}")
        Console().print(f"{name}: {row}, {peak:.0f} MiB")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
