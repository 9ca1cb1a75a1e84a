"""Attribute cases with torch's own softmax, as the authors' code does, and save the scores.

Run by a test as a process of its own, whose kernels torch chooses at its start:
python reference_scores.py MODEL_FOLDER CASES.json OUT_FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from lensdiff.analyses.attribute.measure import attribute
from lensdiff.models import load_model


def softmax(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return each token's probability; its float32 gradient loses digits where that is near 1."""
    return logits.softmax(dim=-1).gather(-1, ids[:, None])[:, 0]


if __name__ == "__main__":
    folder, cases, out = map(Path, sys.argv[1:])
    model = load_model(folder, device="cpu")
    for case in json.loads(cases.read_text()):
        found = attribute(model, case["prompt"], case["response"], target=softmax, deletion_draws=0)
        np.savez(
            out / f"{case['id']}.npz",
            scores=found.scores.numpy(),
            density=found.density().numpy(),
            probs=found.probabilities.numpy(),
            kernels=torch.backends.cpu.get_cpu_capability(),
        )
