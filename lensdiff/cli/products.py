"""What a command shows of a results directory: a short table for the terminal, and a page."""

import html
from typing import Any

import pandas as pd

from lensdiff.analyses.attention.shift import AttentionShift
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.heads.pair_overlap import PairOverlap
from lensdiff.analyses.heads.verb_shift import VerbShift
from lensdiff.analyses.mlp.rotation import Rotation
from lensdiff.analyses.weights.weight_shift import WeightShift
from lensdiff.pipeline import report as _sections  # noqa: F401
from lensdiff.pipeline.both import SIDES
from lensdiff.results import ResultStore
from lensdiff.views import page
from lensdiff.views.section import Table, sections
from lensdiff.views.widget import Widget, notice_html

TOP = 5  # words shown in a summary's line
TOP_ROWS = 12


def attribution_summary(store: ResultStore) -> pd.DataFrame:
    """Return one row per prompt and model: the instruction's score and the words of highest density; and the controls'.

    The controls of a prompt share a row: the mean of their scores, and their range in place of words.
    """
    rows, scores = [], store.load_table("instruction_scores") if store.has_table("instruction_scores") else None
    for name in store.names("attribution/base/"):
        prompt_id = name.removeprefix("attribution/base/")
        for side in SIDES:
            if store.has(f"attribution/{side}/{prompt_id}"):
                found = store.load_result(f"attribution/{side}/{prompt_id}", Attribution)
                top = found.words().top(TOP)
                words = ", ".join(top.in_token[top.density > 0]) or "(none)"
                rows.append(
                    {
                        "prompt": prompt_id,
                        "model": side,
                        "instruction score": found.instruction_score() if bool(found.instruction.any()) else None,
                        "response tokens": len(found.out_tokens),
                        "words that drive it": words if len(found.out_tokens) else "(empty response)",
                    }
                )
        if scores is not None:
            rows += _controls_row(prompt_id, scores)
    return pd.DataFrame(rows)


def _controls_row(prompt_id: str, scores: pd.DataFrame) -> list[dict[str, object]]:
    found = scores[(scores.prompt_id == prompt_id) & (scores.model == "control")]
    if found.empty:
        return []
    low, mean, high = (getattr(found.instruction_score, name)() for name in ("min", "mean", "max"))
    return [
        {
            "prompt": prompt_id,
            "model": f"{len(found)} controls, mean",
            "instruction score": mean,
            "response tokens": round(found.n_out.mean()),
            "words that drive it": f"(score from {low:.3f} to {high:.3f})",
        }
    ]


def instruction_use_summary(store: ResultStore) -> pd.DataFrame:
    """Return how far responses depend on their instruction, nats per token, by each means and on each text."""
    frame = store.load_table("instruction_use_differences")
    columns = ["by", "text", "n", "base", "tuned", "difference", "low", "high", "controls"]
    rows = []
    for by, text in frame[["by", "text"]].drop_duplicates().itertuples(index=False):
        found: Any = frame[(frame.by == by) & (frame.text == text)]
        pair, controls = found[found.model == "tuned"].iloc[0], found[found.kind != ""].difference
        beside = "none" if controls.empty else f"{controls.min():.3g} to {controls.max():.3g} ({len(controls)})"
        numbers = [pair[name] for name in ("n", "base", "use", "difference", "low", "high")]
        rows.append((by, text, *numbers, beside))
    return pd.DataFrame(rows, columns=columns)


def attention_summary(store: ResultStore) -> pd.DataFrame:
    """Return the heads whose attention moved most, with the controls' band, and what the response looked at."""
    columns = ["layer", "head_index", "js_distance", "js_distance_control_low", "js_distance_control_high"]
    columns += [f"instruction_share_{name}" for name in (*SIDES, "p_adjusted")]
    frame = store.load_result("attention_shift", AttentionShift).top(TOP_ROWS)
    return frame.filter(items=columns)


def outputs_summary(store: ResultStore) -> pd.DataFrame:
    """Return the response tokens at which the models differ most."""
    frame = store.load_table("outputs")
    columns = [
        "prompt_id",
        "out_pos",
        "token",
        "kl",
        "js",
        "base_rank",
        "tuned_rank",
        "base_choice",
        "tuned_choice",
        "kind",
    ]
    return frame.nlargest(TOP_ROWS, "kl").filter(items=columns)


def weights_summary(store: ResultStore) -> pd.DataFrame:
    """Return the weights that moved most."""
    frame = store.load_result("weights", WeightShift).top(TOP_ROWS)
    return frame.filter(
        items=["layer", "matrix", "head_index", "relative_norm", "cosine", "effective_rank", "folded_relative_norm"]
    )


def heads_summary(store: ResultStore) -> pd.DataFrame:
    """Return the heads whose word pairs changed most."""
    return store.load_result("pair_overlap", PairOverlap).top(TOP_ROWS)


def verbs_summary(store: ResultStore) -> pd.DataFrame:
    """Return the shift of instruction verbs by group of layers, as sentences."""
    frame = store.load_result("verb_shift", VerbShift).summary()
    frame["test"] = frame["test"].where(frame["test"].notna(), frame["note"])  # why there is none
    return frame.filter(items=["group", "coverage", "paper_test", "test"])


def rotation_summary(store: ResultStore) -> pd.DataFrame:
    """Return how far the concepts turned, by layer, side and rank, with the controls' band."""
    return store.load_result("rotation", Rotation).to_df()


def value_rotation_summary(store: ResultStore) -> pd.DataFrame:
    """Return the share of each layer's change of the values that is a rotation, with each kind's band; or nothing."""
    return store.load_table("value_rotation") if store.has_table("value_rotation") else pd.DataFrame()


def sections_page(store: ResultStore, title: str) -> str:
    """Return a page with those sections of the report that the directory has results for."""
    parts = [notice_html(store.manifest.pair.get("notice") or "")]
    for section in sections():
        if content := section.build(store):
            parts.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.how)}</p>")
            parts += [_fragment(item) for item in content]
    return page(title, "\n".join(parts))


def _fragment(item: Widget | Table | str) -> str:
    if isinstance(item, Widget):
        return f"<h3>{html.escape(item.title)}</h3>{item.fragment()}"
    return item.html() if isinstance(item, Table) else f"<p>{html.escape(item)}</p>"
