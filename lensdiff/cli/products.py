"""What a command shows of a results directory: a short table for the terminal, and a page."""

import pandas as pd

from lensdiff.analyses.attribution import Attribution
from lensdiff.pipeline.workspace import SIDES
from lensdiff.results import Diff, ResultStore
from lensdiff.views import page, show
from lensdiff.views.widget import Widget

TOP = 5  # words shown in a summary's line


def attribution_summary(store: ResultStore) -> pd.DataFrame:
    """Return one row per prompt and model: the instruction's score and the words of highest density."""
    rows = []
    for name in store.names("attribution/base/"):
        prompt_id = name.removeprefix("attribution/base/")
        for side in SIDES:
            if store.has(f"attribution/{side}/{prompt_id}"):
                found = store.load_result(f"attribution/{side}/{prompt_id}", Attribution)
                words = found.words().top(TOP)["in_token"]
                rows.append(
                    {
                        "prompt": prompt_id,
                        "model": side,
                        "instruction score": found.instruction_score() if bool(found.instruction.any()) else None,
                        "response tokens": len(found.out_tokens),
                        "words that drive it": ", ".join(words) if len(found.out_tokens) else "(empty response)",
                    }
                )
    return pd.DataFrame(rows)


def attribution_page(store: ResultStore) -> str:
    """Return the attribution explorer of both models."""
    both = [n for p in _ids(store, "attribution/base/") if store.has(n := f"attribution/tuned/{p}")]
    ids = [name.removeprefix("attribution/tuned/") for name in both]
    sides = ([store.load_result(f"attribution/{side}/{i}", Attribution) for i in ids] for side in SIDES)
    return show(Diff(*sides)).html()


def _ids(store: ResultStore, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in store.names(prefix)]


def joined(title: str, widgets: list[Widget]) -> str:
    """Return one page that holds several widgets."""
    body = "\n".join(widget.fragment() for widget in widgets)
    return page(title, body, circuitsvis=any(widget.circuitsvis for widget in widgets))
