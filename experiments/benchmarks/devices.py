"""What a pair's analyses say and cost on the CPU and on another device: experiments/benchmarks/devices.py [PAIR] [...].

Prints for every analysis the largest difference from the CPU's result, relative to the largest value of its field
(float fields; `same` is the share of equal whole numbers: tokens, ranks, words), and the best time on each. The
shipped toy pair is read by default; `--shape smollm2` reads random weights of SmolLM2-135M's shape, and a slight change
of them.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import lensdiff
from lensdiff.inputs import toy_pair
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import ModelPair, load_pair
from lensdiff.models.text import encode

WORDS, CHANGE, LAYERS = 2000, 0.002, (0, 1)
CONTROLS, CACHED = ("spectrum", "gradient-noise", "distilled"), ("gradient-noise", "distilled")
SMOLLM2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=0,
)


def random_pair(folder: Path) -> tuple[Path, Path]:
    """Two folders with random weights of SmolLM2-135M's shape, the second changed slightly, and the toy's tokenizer."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SMOLLM2)
    places = folder / "base", folder / "tuned"
    for place in places:
        model.save_pretrained(place)
        AutoTokenizer.from_pretrained(toy_pair.BASE, trust_remote_code=False).save_pretrained(place)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(CHANGE * torch.randn_like(parameter))
    return places


def analyses(pair: ModelPair, *, new_tokens: int) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; texts are given, so that every device reads the same."""
    prompts = lensdiff.load_prompts(toy_pair.PROMPTS)
    prompt, answer, layers = prompts[0], prompts[1].text[:100], LAYERS
    words = Vocabulary.default().words[:WORDS]
    vectors = WordVectors.from_model(pair.base, words)
    pairs = list(zip(words[:20], words[20:40], strict=True))

    def concepts() -> tuple[Any, ...]:
        return tuple(lensdiff.mlp_concepts(m, words, layers=layers) for m in (pair.base, pair.tuned))

    return {
        "generate": lambda: lensdiff.generate(pair.tuned, prompts, max_new_tokens=new_tokens),
        "attribute, forward": lambda: lensdiff.attribute(pair.tuned, prompt, answer, method="forward"),
        "attribute, reverse": lambda: lensdiff.attribute(pair.tuned, prompt, answer, method="reverse"),
        "attention": lambda: lensdiff.attention(pair.tuned, prompt, answer, layers=layers),
        "output_shift": lambda: lensdiff.output_shift(pair, prompt, answer),
        "instruction_use": lambda: lensdiff.instruction_use(pair, prompts, [answer] * len(prompts), draws=2),
        "head_word_pairs": lambda: lensdiff.head_word_pairs(pair.tuned, words, vectors, layers=layers),
        "ov_reading": lambda: lensdiff.ov_reading(pair.tuned, words, layers=layers),
        "qk_reading": lambda: lensdiff.qk_reading(pair.tuned, pairs, layers=layers, first="<|end|>"),
        "mlp_concepts": concepts,
        "rotation": lambda: lensdiff.rotation(*concepts()),
        "coherence": lambda: lensdiff.coherence(pair.tuned, concepts()[1], vectors),
        "value_rotation": lambda: lensdiff.value_rotation(pair, layers=layers),
        "weight_shift": lambda: lensdiff.weight_shift(pair),
        **{f"control: {kind}": lambda kind=kind: control(pair, kind, prompt) for kind in CONTROLS},
    }


def control(pair: ModelPair, kind: str, prompt: Any) -> list[Tensor]:
    """What a control's pass says; a trained one walks on from every rounding, so devices part."""
    options: dict[str, Any] = {"steps": 4} if kind == "distilled" else {}
    made = pair.control(kind, 1, cache=None, **options) if kind in CACHED else pair.control(kind, 1)
    ids = torch.tensor([encode(made, prompt).ids])
    logits = made.forward.logits(ids.to(made.device)).cpu()
    made.free()
    return [logits]


def leaves(found: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors and numbers of a result, with the field that they are in."""
    if is_dataclass(found):
        for field in fields(found):
            yield from leaves(getattr(found, field.name), field.name)
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from leaves(value, str(key))
    elif isinstance(found, list | tuple) or (hasattr(found, "__iter__") and not isinstance(found, str | Tensor)):
        for value in found:
            yield from leaves(value, name)
    elif isinstance(found, Tensor):
        yield name, found
    elif isinstance(found, bool | int | float):
        yield name, torch.tensor(found)


def gap(mine: Any, theirs: Any) -> tuple[float, str, float]:
    """The largest relative difference of a float field with the field's name, and the share of equal whole numbers."""
    worst, where, same, count = 0.0, "", 0, 0
    for (name, a), (_, b) in zip(leaves(mine), leaves(theirs), strict=False):
        if a.shape != b.shape:
            return float("inf"), name, 0.0
        if a.is_floating_point():
            a, b = a.double().nan_to_num(), b.double().nan_to_num()
            size = float(a.abs().max()) if a.numel() else 0.0
            difference = float((a - b).abs().max()) / size if size else 0.0
            worst, where = max((worst, where), (difference, name))
        elif a.numel():
            same, count = same + int((a == b).sum()), count + a.numel()
    return worst, where, same / count if count else 1.0


def best(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the shortest time of some repeats after one that does not count; results are on the CPU."""
    found, times = run(), []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return found, min(times)


def main(
    pair: Annotated[str, typer.Option(help="Two folders or hub names with a comma between; the toy pair.")] = "",
    shape: Annotated[str, typer.Option(help="smollm2: random weights of that shape.")] = "",
    device: str = "cuda",
    repeats: Annotated[int, typer.Option(help="Times each; the best counts.")] = 3,
    new_tokens: int = 48,
    leave: Annotated[str, typer.Option(help="Names, with semicolons between, that are left out.")] = "",
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 2,
    out: Annotated[Path | None, typer.Option(help="A JSON file that the numbers are written to.")] = None,
) -> None:
    """Compare two devices on one pair."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        given = pair.split(",") if pair else (toy_pair.BASE, toy_pair.TUNED)
        base, tuned = random_pair(Path(folder)) if shape else given
        runs = {name: analyses(load_pair(base, tuned, device=name), new_tokens=new_tokens) for name in ("cpu", device)}
        table = Table("analysis", "difference", "in", "same", "CPU, s", f"{device}, s", "CPU / device")
        kept: list[dict[str, Any]] = []
        for name in [name for name in runs["cpu"] if name not in leave.split(";")]:
            try:
                (mine, slow), (theirs, fast) = (best(runs[d][name], repeats) for d in ("cpu", device))
            except RuntimeError as error:  # another device's fault, to be read, and not the end of the others
                table.add_row(name, type(error).__name__, str(error)[:60])
                continue
            difference, where, same = gap(mine, theirs)
            numbers = f"{difference:.0e}", where, f"{same:.1%}", f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.1f}"
            table.add_row(name, *numbers)
            found = (name, difference, where, same, slow, fast, slow / fast)
            kept.append(
                dict(zip(("analysis", "difference", "in", "same", "cpu_s", "device_s", "ratio"), found, strict=True))
            )
            typer.echo(" ".join((name, *numbers)), err=True)
        what = torch.cuda.get_device_name() if device.startswith("cuda") else device
        console = Console(width=120)
        console.print(f"{what} against {threads} CPU threads, torch {torch.__version__}")
        console.print(table)
        if out is not None:
            about = {
                "device": what,
                "threads": threads,
                "torch": torch.__version__,
                "shape": shape or pair or "toy pair",
            }
            out.write_text(json.dumps(about | {"analyses": kept}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
