"""`patch_sweep` over all heads and MLPs against a plain loop of full passes, in one run on one model.

    python -m experiments.benchmarks.patching MODEL [--prompt 20] [--response 30] [--threads 2] [--sample 24]

The second model is the first with noise on its weights; its activations are put into the first, one direction. The loop
runs a whole pass for each row, its logits at every position, one row at a time; it is timed on a sample of the rows,
spread over the layers, and scaled to all of them. Effects must agree, or it stops. Printed are both times, on the
clock and on the processor, their ratio, and the peak of resident memory above the two models.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from experiments.benchmarks.compared import CLOCKS, Clock, Way
from lensdiff.analyses.patch.measure import patch_sweep
from lensdiff.inputs import Prompt
from lensdiff.models import ModelPair, Point, load_model, load_pair, view_of
from lensdiff.models.aligned_text import AlignedText, align_text
from lensdiff.models.response import Response

AGREEMENT = 1e-4  # nats per token: float32 noise of two ways to the same number
NOISE = 0.05  # of each weight's standard deviation
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
WORDS = (
    "The council met on Tuesday evening to discuss the new bridge, and several residents spoke against the plan "
    "because they feared that the river would flood the lower streets again, as it had twice in the last ten years."
)


def memory(field: str) -> float:
    """Return a field of this process's memory in MiB: VmRSS (now) or VmHWM (peak since the reset)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 1024


def noisy_pair(model: str) -> ModelPair:
    """Return a model and the same with noise on its weights."""
    base, tuned = load_model(model, device="cpu"), load_model(model, device="cpu", verify=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(NOISE * parameter.std() * noise)
    return load_pair(base, tuned)


def text_of(pair: ModelPair, n_prompt: int, n_response: int) -> tuple[Prompt, Response]:
    """Return a prompt and a response of so many tokens."""
    tokenizer = view_of(pair.base).tokenizer
    ids = tokenizer(" ".join([WORDS] * 20), add_special_tokens=False)["input_ids"]
    prompt = Prompt(str(tokenizer.decode(ids[:n_prompt])), id="prompt")
    return prompt, Response("", tuple(ids[n_prompt : n_prompt + n_response]))


def plain_loop(
    pair: ModelPair, text: AlignedText, rows: list[tuple[str, int, int]]
) -> tuple[list[float], dict[Clock, float]]:
    """Return the effects of rows (component, layer, head), a full pass each, and the rows' seconds by each clock."""
    base, tuned = view_of(pair.base), view_of(pair.tuned)
    points = {name: [Point(name, layer) for layer in range(base.n_layers)] for name in ("z", "mlp_out")}

    def score(logits: torch.Tensor) -> float:
        log_probs = logits[0, text.first :].log_softmax(dim=-1)
        return float(log_probs.gather(-1, text.said["base"][:, None]).double().mean())

    with torch.no_grad():
        donor = tuned.forward.run(text.ids["tuned"][None], read=points["z"] + points["mlp_out"])
        clean = score(base.forward.logits(text.ids["base"][None]))
        starts, found = {clock: clock() for clock in CLOCKS.values()}, []
        for component, layer, head in rows:
            point = points["z" if component == "head" else "mlp_out"][layer]

            def write(value: torch.Tensor, point: Point = point, head: int = head) -> torch.Tensor:
                if point.name == "mlp_out":
                    return donor[point]
                value = value.clone()
                value[:, :, head] = donor[point][:, :, head]
                return value

            logits = base.forward.run(text.ids["base"][None], read=[Point("logits")], write={point: write})
            found.append(score(logits[Point("logits")]) - clean)
    return found, {clock: clock() - start for clock, start in starts.items()}


def spread(n_rows: int, sample: int) -> list[int]:
    """Return as many places, spread over all of them."""
    sample = min(sample, n_rows)
    return [round(i * (n_rows - 1) / max(1, sample - 1)) for i in range(sample)]


def sampled_loop(pair: ModelPair, text: AlignedText, sample: int) -> Way:
    """Return the plain loop over the base's heads and MLPs: effects of a sample, NaN elsewhere, seconds of all rows."""
    sizes = view_of(pair.base).weights.sizes
    in_layer = [*(("head", head) for head in range(sizes.n_heads)), ("mlp", -1)]
    rows = [(component, layer, head) for layer in range(sizes.n_layers) for component, head in in_layer]
    chosen = spread(len(rows), sample)

    def way(clock: Clock) -> tuple[torch.Tensor, float]:
        found = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        effects, seconds = plain_loop(pair, text, [rows[i] for i in chosen])
        found[chosen] = torch.tensor(effects, dtype=torch.float64)
        return found, seconds[clock] / len(chosen) * len(rows)

    return way


def main(
    model: Annotated[str, typer.Argument(help="A folder, a hub name or a .gguf file.")],
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 20,
    response: Annotated[int, typer.Option(help="Tokens of the response.")] = 30,
    threads: int = 2,
    sample: Annotated[int, typer.Option(help="Rows of the plain loop that are timed.")] = 24,
    max_bytes: Annotated[int, typer.Option(help="Of a batch of patched passes.")] = 2**28,
) -> None:
    """Compare on one model."""
    torch.set_num_threads(threads)
    pair = noisy_pair(model)
    given = text_of(pair, prompt, response)
    text = align_text(pair, *given, max_new_tokens=1, prepend_bos=None)
    patch_sweep(pair, *given, layers=[0], into="base")  # what points mean is measured once
    RESET.write_text("5")
    before, start, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    found = patch_sweep(pair, *given, into="base", max_bytes=max_bytes)
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    busy = time.process_time() - busy
    every = list(zip(found.component, found.layer.tolist(), found.head_index.tolist(), strict=True))
    chosen = spread(len(every), sample)
    effects, sampled = plain_loop(pair, text, [every[i] for i in chosen])
    gap = max(abs(effect - float(found.effect[0, i])) for effect, i in zip(effects, chosen, strict=True))
    if not gap < AGREEMENT:
        raise SystemExit(f"the plain loop differs by {gap:.1e} nats per token")
    loop, loop_busy = (sampled[clock] / len(chosen) * len(every) for clock in (time.perf_counter, time.process_time))
    print(f"{len(every)} rows, {text.n_read} positions, {text.n_out} response tokens, {threads} threads")
    print(
        f"patch_sweep {seconds:.1f} s; plain loop {loop:.1f} s ({sample} rows timed): {loop / seconds:.1f} times slower"
    )
    print(f"processor time of all threads: {busy:.0f} s; plain loop {loop_busy:.0f} s, {loop_busy / busy:.1f} times it")
    print(f"largest difference {gap:.1e} nats per token of {float(found.effect.abs().max()):.2g} at most")
    print(f"peak memory {peak:.0f} MiB above the two models")


if __name__ == "__main__":
    typer.run(main)
