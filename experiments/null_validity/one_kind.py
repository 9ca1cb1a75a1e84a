"""No single kind of control is the null of claim 3: python -m experiments.null_validity.one_kind [--controls 19].

The share of the values' change that one orthogonal map explains, of changes that mean nothing and of planted ones,
beside random matrices with the same singular values in every layer:

    Haar             U, V uniform over orthonormal columns
    gradient-noise   singular vectors of G = sum over tokens of +-1 (input activation x output gradient)
    Adam-like        those of G / rms, where rms^2 = sum over tokens of the squared terms: what Adam divides by

z is the share less the controls' mean in their standard deviations: description, no test. Only W_out is read, and the
kinds are made here from the formulas, without the package's own controls: a second implementation.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from experiments.null_validity.changes import Change
from experiments.null_validity.measures import FIRST_PAIR, Setting
from experiments.null_validity.nulls import NULLS
from experiments.null_validity.plants import components_turned, values_turned
from experiments.null_validity.training import samples
from lensdiff.analyses.value_rotation.procrustes import explained_share

TEXTS, LENGTH = 64, 48  # that gradients are taken on


class Terms(NamedTuple):
    """Of one layer's W_out: what a token reads and the gradient of what it writes."""

    inputs: Tensor
    gradients: Tensor


def value_names(base: PreTrainedModel) -> list[str]:
    return [name for name, _ in base.named_parameters() if name.endswith("down_proj.weight")]


def gradient_terms(base: PreTrainedModel, end: int, *, seed: int) -> list[Terms]:
    """Return every layer's terms on random tokens: text that is unrelated to anything."""
    texts = samples(base, n=TEXTS, length=LENGTH, start=end, seed=seed)
    kept: list[list[Tensor]] = []

    def keep(module: object, given: tuple[Tensor, ...], out: Tensor) -> None:
        pair = [given[0].detach().flatten(0, 1).double()]
        kept.append(pair)
        out.register_hook(lambda gradient: pair.append(gradient.detach().flatten(0, 1).double()))

    handles = [layer.mlp.down_proj.register_forward_hook(keep) for layer in base.model.layers]
    base(input_ids=texts, labels=texts).loss.backward()
    base.zero_grad()
    for handle in handles:
        handle.remove()
    return [Terms(*pair) for pair in kept]


def haar(values: Tensor, terms: Terms, generator: torch.Generator) -> Tensor:
    """Return a change of the values with given singular values in random directions."""
    drawn = [
        torch.randn(side.shape[1], len(values), dtype=torch.float64, generator=generator)
        for side in (terms.inputs, terms.gradients)
    ]
    left, right = (torch.linalg.qr(gaussian).Q for gaussian in drawn)
    return (left * values) @ right.T


def gradient_noise(values: Tensor, terms: Terms, generator: torch.Generator, *, divided: bool) -> Tensor:
    """Return a change with given singular values in the directions of gradients with random signs."""
    signs = 2.0 * torch.randint(2, (len(terms.inputs), 1), generator=generator) - 1.0
    summed = (terms.inputs * signs).T @ terms.gradients
    if divided:
        summed = summed / (terms.inputs.square().T @ terms.gradients.square()).sqrt()
    left, _, right = torch.linalg.svd(summed, full_matrices=False)
    return (left[:, : len(values)] * values) @ right[: len(values)]


KINDS: dict[str, Callable[[Tensor, Terms, torch.Generator], Tensor]] = {
    "Haar": haar,
    "gradient-noise": partial(gradient_noise, divided=False),
    "Adam-like": partial(gradient_noise, divided=True),
}


def share(base: list[Tensor], changes: list[Tensor]) -> float:
    """Return the mean over layers of the explained share."""
    return float(np.mean([explained_share(V, V + D) for V, D in zip(base, changes, strict=True)]))


def rows_of(setting: Setting, change: Change, terms: list[Terms], n: int) -> dict[str, tuple[float, float, float]]:
    """Return, per kind, the share, the controls' mean and z."""
    parameters, names = dict(setting.model.named_parameters()), value_names(setting.model)
    base = [parameters[name].detach().double().T for name in names]
    real = [change[name].double().T for name in names]
    own, spectra, found = share(base, real), [torch.linalg.svdvals(D) for D in real], {}
    for kind, make in KINDS.items():
        shares = []
        for seed in range(n):
            generator = torch.Generator().manual_seed(seed)
            shares.append(share(base, [make(s, t, generator) for s, t in zip(spectra, terms, strict=True)]))
        found[kind] = own, float(np.mean(shares)), (own - float(np.mean(shares))) / float(np.std(shares, ddof=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, default=FIRST_PAIR / "base", help="a folder with a Llama checkpoint")
    parser.add_argument("--controls", type=int, default=19)
    options = parser.parse_args()
    setting = Setting(options.base, FIRST_PAIR / "prompts.jsonl")
    terms = gradient_terms(setting.model, setting.end, seed=1000)
    changes = {name: NULLS[name](setting.model, setting.end, 0) for name in list(NULLS)[:-2]}
    changes |= {f"values turned by {d} degrees": values_turned(setting, 0, degrees=d, part=1.0) for d in (1, 30)}
    for n in (1, 3):
        planted = components_turned(setting, 0, degrees=10, part=1 / (1 + n**2))
        changes[f"top 5 turned by 10 degrees, {n} x noise"] = planted
    print(f"| change | share | {' | '.join(KINDS)} |\n|---|---|{'---|' * len(KINDS)}")
    for name, change in changes.items():
        found = rows_of(setting, change, terms, options.controls)
        cells = [f"{mean:.3f} ({z:+.0f})" for _, mean, z in found.values()]
        print(f"| {name} | {next(iter(found.values()))[0]:.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
