"""Time and memory of concepts and of their rotation: experiments/benchmarks/concepts.py MODEL [--words NPZ] [...].

Prints one figure a line: wall and CPU time, the peak of resident memory above the loaded model, and the cost per layer.
Without --words the vocabulary is the shipped word list; it takes an .npz with `words`. With --controls N the rotation
of the model against itself with a random low-rank change of every W_out, and N spectrum-matched controls, is timed too.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.analyses.mlp.rotation import rotation
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.models import load_model, load_pair, view_of

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CHANGE, RANK = 0.02, 8  # of the planted change: relative norm, rank


def memory(field: str) -> float:
    """Return a field of this process's memory in MiB: VmRSS (now) or VmHWM (peak since the reset)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 1024


def measured(name: str, layers: int, run: Callable[[], Any]) -> Any:
    """Run, print what it cost, and return its result."""
    RESET.write_text("5")  # the peak of loading the model does not count
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: wall time {wall:.1f} s, CPU time {cpu:.1f} s, per layer {wall / layers:.2f} s")
    print(f"{name}: resident memory, model {before:.0f} MiB, peak {memory('VmHWM') - before:.0f} MiB above it")
    return found


def changed(model: Any) -> None:
    """Add a random low-rank change to every W_out."""
    view, generator = view_of(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in range(view.n_layers):
            weight = view.weights.matrix(layer, "W_out")
            assert weight is not None
            left, right = (torch.randn(n, RANK, generator=generator) for n in weight.shape)
            product = left @ right.T
            weight.add_(CHANGE * product * weight.norm() / product.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--words")
    parser.add_argument("--components", type=int, default=300)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--sides", nargs="+", default=["value"])
    parser.add_argument("--controls", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    words = tuple(map(str, np.load(options.words)["words"])) if options.words else Vocabulary.default().words
    model = load_model(options.model)
    view = view_of(model)
    layers = range(options.layers or view.n_layers)
    wanted = {"layers": layers, "sides": options.sides, "n_components": options.components}
    concepts = measured("concepts", len(layers), lambda: mlp_concepts(model, words, **wanted))
    shape = concepts.components.shape
    print(f"{shape[0]} layers, {shape[1]} sides, {shape[2]} components, {len(concepts.words)} words")
    if not options.controls:
        return
    pair = load_pair(options.model, options.model)
    changed(pair.tuned)
    base, tuned = (concept_directions(m, **wanted) for m in (pair.base, pair.tuned))
    controls = (pair.control("spectrum", seed) for seed in range(options.controls))
    run = measured(
        f"rotation, {options.controls} controls", len(layers), lambda: rotation(base, tuned, controls=controls)
    )
    print(f"rotation: {run.claim}")


if __name__ == "__main__":
    main()
