"""What a model was tuned on, as far as a shuffled control needs it: prompts and responses."""

from pathlib import Path

from lensdiff.inputs.json_lines import read_json_lines
from lensdiff.results import InputError

KEYS = (("prompt", "text"), ("response", "reference"))  # of a line; the second names are those of a file of prompts


def load_tuning_data(path: str | Path) -> list[tuple[str, str]]:
    """Read prompts and responses from a JSONL file.

    A line is an object with the texts "prompt" (or "text") and "response" (or "reference"); other keys are ignored.

    Raises:
        InputError: the file is missing, or a line is unusable (named by its number).
    """
    found = []
    for number, record in read_json_lines(Path(path)):
        given = record if isinstance(record, dict) else {}
        row = [next((given[key] for key in keys if key in given), None) for keys in KEYS]
        if not all(isinstance(text, str) and text.strip() for text in row):
            wanted = 'texts "prompt" (or "text") and "response" (or "reference")'
            raise InputError(f"{path}, line {number}: expected an object with {wanted}")
        found.append((str(row[0]), str(row[1])))
    return found
