"""Where the first toy pair lies: 1.5 M parameters, tuned by far more text than its base had, so that all of it moved.

It does not ship. What is known about it (accuracies, angles, weights, a base that ignores instructions) is an oracle of
tests, and it shows what an analysis says of a pair whose change is too large for a control.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "fixtures" / "toy_v1"
BASE = FOLDER / "base"
TUNED = FOLDER / "tuned"
PROMPTS = FOLDER / "prompts.jsonl"
