"""Time and memory of the word pairs of all heads: python experiments/benchmarks/heads.py MODEL [--vectors NPZ] [...].

Prints one figure a line: wall and CPU time, the peak of resident memory above the loaded model, and the cost per head
and per dimension. Without --vectors the vocabulary and the vectors are the shipped word list and the model's own
embeddings; --words cuts or repeats nothing, it only limits the list. --vectors takes an .npz with `words` and
`vectors`. `plain_loop` is the same analysis dimension by dimension, for `table.py`.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lensdiff.analyses.heads.defaults import THRESHOLD_STD, THRESHOLD_WORDS
from lensdiff.analyses.heads.head_weights import scaled
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import ModelView, load_model, view_of
from lensdiff.models.words import word_embeddings, word_tokens

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """Return a field of this process's memory in MiB: VmRSS (now) or VmHWM (peak since the reset)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 1024


@torch.no_grad()
def plain_loop(
    view: ModelView, words: Sequence[str], vectors: WordVectors, layers: Sequence[int], top_k: int
) -> list[list[Tensor]]:
    """Return a head's pairs by dimension, by falling energy: rows of key, query.

    As one writes it with torch: all words' activations of a head at once, then a dimension after the other; the cosines
    of a dimension's candidates alone, as theirs are all that matter. Words become embeddings as lensdiff's do.
    """
    tokens = word_tokens(view, words)
    E = word_embeddings(view.weights.W_E, tokens)
    unit = normalize(torch.from_numpy(vectors.lookup(tokens.words)[0]), dim=1)
    background = unit @ unit[:THRESHOLD_WORDS].T
    theta = background.mean(dim=1) + THRESHOLD_STD * background.std(dim=1, correction=0)
    del background
    found = []
    for layer in layers:
        W_Q, W_K = scaled(view, layer, "W_Q"), scaled(view, layer, "W_K")
        for head in range(len(W_Q)):
            q, k = E @ W_Q[head], E @ W_K[head * len(W_K) // len(W_Q)]
            energy, pairs = (q**2 + k**2).sum(dim=0), []
            for d in energy.argsort(descending=True).tolist():
                best_q, best_k = (x[:, d].abs().topk(top_k).indices for x in (q, k))
                cosine = unit[best_k] @ unit[best_q].T
                keep = (cosine > theta[best_k][:, None]) & (cosine > theta[best_q]) & (cosine > 0)
                keep &= (k[best_k, d][:, None] * q[best_q, d] > 0) & (best_k[:, None] != best_q)
                i, j = keep.nonzero(as_tuple=True)
                order = cosine[i, j].argsort(descending=True)
                pairs.append(torch.stack([best_k[i], best_q[j]], dim=1)[order])
            found.append(pairs)
    return found


def gap(mine: HeadWordPairs, theirs: list[list[Tensor]]) -> float:
    """Return the share of pairs that only one of both has: cosines next to a threshold may round to either side."""
    n, dims, one = len(mine.words), [pairs for head in theirs for pairs in head], mine.starts.diff()
    owner = torch.arange(len(one)).repeat_interleave(one)
    ours = (owner * n + mine.key.long()) * n + mine.query.long()
    other = torch.cat([(i * n + pairs[:, 0]) * n + pairs[:, 1] for i, pairs in enumerate(dims)])
    return len(set(ours.tolist()) ^ set(other.tolist())) / len(ours)


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
