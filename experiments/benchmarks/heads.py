"""Time and memory of the word pairs of all heads: python experiments/benchmarks/heads.py MODEL [--vectors NPZ] [...].

Prints one figure a line: wall and CPU time, the peak of resident memory above the loaded model, and the cost per head
and per dimension. Without --vectors the vocabulary and the vectors are the shipped word list and the model's own
embeddings; --words cuts or repeats nothing, it only limits the list. --vectors takes an .npz with `words` and
`vectors`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from lensdiff.analyses.heads.head_word_pairs import head_word_pairs
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import load_model, view_of

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """Return a field of this process's memory in MiB: VmRSS (now) or VmHWM (peak since the reset)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--vectors")
    parser.add_argument("--words", type=int)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    view = view_of(load_model(options.model))
    if options.vectors:
        stored = np.load(options.vectors)
        words = tuple(map(str, stored["words"]))[: options.words]
        vectors = WordVectors(words, stored["vectors"][: options.words], options.vectors)
    else:
        words = Vocabulary.default().words[: options.words]
        vectors = WordVectors.from_model(view, words)
    RESET.write_text("5")  # the peak of loading the model does not count
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    layers = None if options.layers is None else range(options.layers)
    pairs = head_word_pairs(view, words, vectors, layers=layers, top_k=options.top_k, chunk=options.chunk)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory("VmHWM")
    heads, dims = pairs.dims.shape[0] * pairs.dims.shape[1], pairs.dims.numel()
    print(f"{heads} heads, {dims} dimensions, {len(pairs.words)} words, K = {options.top_k}, {len(pairs.key)} pairs")
    print(f"wall time {wall:.1f} s, CPU time {cpu:.1f} s on {options.threads} threads")
    print(f"per head {1e3 * wall / heads:.1f} ms, per dimension {1e3 * wall / dims:.2f} ms")
    print(f"resident memory, model {before:.0f} MiB, peak {peak - before:.0f} MiB above it (chunk {options.chunk})")


if __name__ == "__main__":
    main()
