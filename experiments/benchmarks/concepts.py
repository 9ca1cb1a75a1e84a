"""Time and memory of concepts and of their rotation: experiments/benchmarks/concepts.py MODEL [--words NPZ] [...].

Prints one figure a line: wall and CPU time, the peak of resident memory above the loaded model, and the cost per layer.
Without --words the vocabulary is the shipped word list; it takes an .npz with `words`. With --controls N the rotation
of the model against itself with a random low-rank change of every W_out, and N spectrum-matched controls, is timed too.
`plain_loop` and `plain_rotation` are the same analyses layer by layer, for `table.py`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from lensdiff.analyses.mlp.components import Directions, concept_directions
from lensdiff.analyses.mlp.concepts import MLPConcepts, mlp_concepts
from lensdiff.analyses.mlp.rotation import Rotation, rotation
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.models import ModelView, load_model, load_pair, view_of
from lensdiff.models.words import word_embeddings, word_tokens

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


@torch.no_grad()
def plain_loop(
    view: ModelView, words: Sequence[str], layers: Sequence[int], n_components: int, top: int
) -> list[tuple[Tensor, list[list[int]]]]:
    """Return by layer the shares of variance and each component's words of largest |score|, of the values.

    As one writes it with torch: a singular value decomposition of the centred values in the model's own float32, and a
    product and a search for each component. Words become embeddings as lensdiff's do.
    """
    U = normalize(word_embeddings(view.weights.W_U.T, word_tokens(view, words)), dim=1)
    found = []
    for layer in layers:
        values = view.weights.needed_matrix(layer, "W_out")
        _, sizes, rows = torch.linalg.svd(values - values.mean(dim=0), full_matrices=False)
        ratio = sizes**2 / (sizes**2).sum()
        named = [(U @ row).abs().topk(top).indices.tolist() for row in rows[:n_components]]
        found.append((ratio[:n_components], named))
    return found


def gap(mine: MLPConcepts, theirs: list[tuple[Tensor, list[list[int]]]]) -> float:
    """Return the share of words that only one of both names: of nearly equal scores either may be the last."""
    shares, other = torch.stack([shares for shares, _ in theirs]).double(), 0
    torch.testing.assert_close(mine.explained_variance_ratio[:, 0].double(), shares, rtol=1e-3, atol=1e-6)
    for layer, (_, named) in zip(mine.index[:, 0].tolist(), theirs, strict=True):
        other += sum(len(set(a) - set(b)) for a, b in zip(layer, named, strict=True))
    return other / mine.index[:, 0].numel()


def plain_rotation(base: Directions, tuned: Directions, ranks: Sequence[int]) -> list[tuple[list[Tensor], Tensor]]:
    """Return by layer the principal angles of each rank, and the angles of matched components, with scipy's own."""
    found = []
    for a, b in zip(base.components[:, 0].double().numpy(), tuned.components[:, 0].double().numpy(), strict=True):
        angles = [torch.from_numpy(subspace_angles(a[:r].T, b[:r].T)[::-1].copy()) for r in ranks]
        cosine = np.abs(a @ b.T)
        rows, columns = linear_sum_assignment(-cosine)
        found.append((angles, torch.from_numpy(np.arccos(np.clip(cosine[rows, columns], 0, 1)))))
    return found


def rotation_gap(mine: Rotation, theirs: list[tuple[list[Tensor], Tensor]]) -> float:
    """Return the largest difference of an angle in radians."""
    found = []
    for layer, (angles, matched) in enumerate(theirs):
        both = zip(mine.angles[layer, 0], mine.ranks, angles, strict=True)
        found += [own[:rank] - other for own, rank, other in both]
        found.append(mine.matched_angle[layer, 0] - matched)
    return float(torch.stack([one.abs().max() for one in found]).max())


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
