"""A small made-up repository in the layout of the authors' one, and where a real one lies."""

import pickle
from pathlib import Path

import numpy as np

REAL = Path(__file__).resolve().parents[3] / "shared" / "paper"
PIECES = ["▁Say", "▁it", ".", "<0x0A>", "▁A", "▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "."]  # "Say it.\n A 😀."
TEXT = "Say it./n A 😀."
FOLDER = {"base": "ifa_llama_7b", "tuned": "ifa_vicuna_7b"}


def levels(seed: int, out: int, rows: int = len(PIECES)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 11, (rows, out)).astype(np.float32)


def write_attribution(root: Path, model: str, key: str, explain: np.ndarray) -> Path:
    folder = root / "results" / "attribution_interpret" / FOLDER[model]
    folder.mkdir(parents=True, exist_ok=True)
    output = ["▁x"] * explain.shape[1]
    record = {"ID": key, "Input": list(PIECES), "Reference": "r", "Output": output, "Explain": explain}
    path = folder / f"{key}.pkl"
    path.write_bytes(pickle.dumps(record, protocol=4))
    return path


def write_clone(root: Path, ratings: dict[str, int], spans: str = "it") -> Path:
    """Write the data sets for the prompt ids in `ratings`, each with the same prompt."""
    (root / "datasets").mkdir(parents=True)
    rows = [f"{key}\t{TEXT}\tref/n{key}\t{spans}" for key in ratings]
    (root / "datasets" / "FinalDataset.tsv").write_text(
        "\n".join(["ID\tPrompt\tResponse\tInstruct&Context", *rows, "", ""]), encoding="utf-8"
    )
    rated = [f"{key}.pkl\tvicuna_7B\tp\tr\ti\tSo/n{key}\t{rating}" for key, rating in ratings.items()]
    other = [f"{key}.pkl\talpaca_7B\tp\tr\ti\tx\t1" for key in ratings]
    header = "File\tModel\tPrompt\tReference\tInstruct\tResponse\tRating"
    (root / "datasets" / "AnnotatedDataset.tsv").write_text("\n".join([header, *other, *rated, ""]), encoding="utf-8")
    return root
