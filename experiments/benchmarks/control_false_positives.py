"""How often a control calls a meaningless change significant: python .../control_false_positives.py MODEL [...].

Each draw changes the value matrix (W_out) of one layer by a random low-rank matrix, which means nothing. The statistic
is the angle by which the leading principal component of the values turns. It is compared with those of controls of two
kinds, made from the same matrix: one keeps the singular values of the change, the other only its norm. A control is
honest when 5 % of the draws come out below p = 0.05. Prints a line per kind, with the spread of the controls'
angles: noise of full rank turns the component by nearly the same angle every time.
"""

import argparse
import time

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from scipy.stats import binom
from torch import Tensor

from lensdiff.analyses.mlp.subspaces import direction_angles
from lensdiff.models import load_model, view_of
from lensdiff.models.change import Weight, generator_for, random_norm, random_spectrum, singular_values
from lensdiff.stats import control_rank

ALPHA = 0.05
KINDS = {"spectrum": random_spectrum, "norm": random_norm}


def leading(values: Tensor) -> Tensor:
    """Return the first principal component of the rows, as one row."""
    centred = (values - values.mean(dim=0)).numpy()
    start = np.ones(centred.shape[1])
    return torch.from_numpy(eigsh(centred.T @ centred, k=1, v0=start)[1].T.copy())


def low_rank(like: Tensor, rank: int, size: float, seed: int) -> Tensor:
    """Return a random matrix of a rank whose norm is `size` times that of `like`."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in like.shape)
    change = left @ right.T
    return change * (size * like.norm() / change.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--controls", type=int, default=39)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--size", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    view, start = view_of(load_model(options.model, device="cpu")), time.perf_counter()
    significant = dict.fromkeys(KINDS, 0)
    spread: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for draw in range(options.draws):
        layer = draw % view.n_layers
        stored = view.weights.matrix(layer, "W_out")
        assert stored is not None
        base = stored.double()
        before = leading(base)
        change = low_rank(base, options.rank, options.size, seed=draw)
        effect = float(direction_angles(before, leading(base + change)))
        values = singular_values(change, rounding=1e-12 * float(base.norm()))
        for kind, change_like in KINDS.items():
            angles = []
            for seed in range(options.controls):
                generator = generator_for(kind, 1000 * draw + seed, Weight("W_out", layer))
                control = base + change_like(values, (base.shape[0], base.shape[1]), generator)
                angles.append(float(direction_angles(before, leading(control))))
            spread[kind].append(float(np.std(angles) / np.mean(angles)))
            p = control_rank(effect, angles).p
            significant[kind] += p is not None and p <= ALPHA
    low, high = binom.interval(0.95, options.draws, ALPHA)
    print(
        f"{options.draws} meaningless changes of rank {options.rank} and {options.size:.0%} of W_out's norm, "
        f"{options.controls} controls each, {view.info.id}, {time.perf_counter() - start:.0f} s; "
        f"an honest control finds {low:.0f} to {high:.0f}"
    )
    for kind, count in significant.items():
        print(
            f"{kind}-matched: {count} of {options.draws} significant at {ALPHA} ({count / options.draws:.0%}); "
            f"the controls' angles spread by {np.mean(spread[kind]):.2f} of their mean"
        )


if __name__ == "__main__":
    main()
