"""Where the shipped toy pair lies: a base model, its instruction-tuned version, and prompts with marked spans."""

from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "toy_pair"
BASE = FOLDER / "base"
TUNED = FOLDER / "tuned"
PROMPTS = FOLDER / "prompts.jsonl"
