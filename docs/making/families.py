"""The table of model families, from the record of `experiments/families.py`."""

from pathlib import Path

from docs.making.markdown import cell, code, table

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "experiments" / "families.md"
MARK = "<!-- families: every family and wrapper, from experiments/families.py -->"
HEAD = ("family", "wrapper", "loads", "largest difference", "what is refused")


def rows(text: str) -> list[dict[str, str]]:
    """Return the rows of the record by the names of its columns."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *body = [[part.strip() for part in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(head, [*parts, *[""] * len(head)], strict=False)) for parts in body]


def filled(markdown: str) -> str:
    """Return the page of families with the table of the record, and the versions it was made with, in their place."""
    text = RECORD.read_text(encoding="utf-8")
    made = next((line for line in text.splitlines() if line.startswith("Made by")), "")
    assert MARK in markdown, "docs/families.md has a place for the table"
    return markdown.replace(MARK, f"{table(HEAD, [_line(row) for row in rows(text)])}\n\n{made}")


def _line(row: dict[str, str]) -> tuple[str, ...]:
    measured = {name: value for name, value in row.items() if name not in ("family", "wrapper", "loads") and value}
    numbers = {name: number for name, value in measured.items() if (number := _number(value)) is not None}
    sentences = [f"{name}: {value}" for name, value in measured.items() if name not in numbers]
    loads = row["loads"] == "yes"
    refused = sentences if loads else [row["loads"]]
    worst = max(numbers, key=lambda name: numbers[name], default="")
    shown = f"{numbers[worst]:.0e} ({worst})" if worst else ""
    return (code(row["family"]), row["wrapper"], "yes" if loads else "no", shown, cell("; ".join(refused)))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
