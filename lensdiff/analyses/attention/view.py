"""Attention of heads drawn by circuitsvis, base beside tuned, most changed first; and the map of how far each moved."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lensdiff.analyses.attention.distances import DISTANCES, distances_of
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.analyses.attention.shift import STATISTICS, AttentionShift
from lensdiff.results import Diff, InputError
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.widget import Widget, packed

LABEL_LENGTH = 90
HEADS = 12  # drawn for a prompt
FEWEST_HEADS = 3
BYTES = 400_000  # of patterns for a prompt and side, which a page can hold
TOP = 10
NAMES = {
    "js_distance": "JS distance",
    "js_distance_no_sink": "JS distance without first key",
    "sink_share": "first token's share",
    "entropy": "entropy (bits)",
    "instruction_share": "instruction's share",
    "context_share": "context's share",
    "rest_share": "the rest's share",
}
HOW = {
    "js_distance": "Jensen-Shannon distance of base's and tuned's attention, mean over queries and prompts.",
    "js_distance_no_sink": "The same after the first key is dropped and the rest renormalised.",
}


@register_view
def show_attention(result: AttentionPatterns) -> Widget:
    """Return the attention of the heads that look most at the instruction (or least at the first token)."""
    return show_prompts([result])


@register_many(AttentionPatterns)
def show_prompts(results: Sequence[AttentionPatterns]) -> Widget:
    """Return the same of one model and several prompts, one chosen at a time."""
    prompts = [_prompt([("model", one.provenance.model, one)], _best(one), []) for one in results]
    return _widget(prompts, f"Attention: {results[0].provenance.model}")


@register_diff(AttentionPatterns)
def show_attentions(result: Diff) -> Widget:
    """Return the attention of both models, of one prompt or of those that both lists have, most changed heads first."""
    base, tuned = (_by_prompt(side) for side in (result.base, result.tuned))
    pairs = [(base[name], tuned[name]) for name in base if name in tuned]
    return _widget([_compared(*pair) for pair in pairs], "Attention: base and tuned")


def _by_prompt(side: AttentionPatterns | Sequence[AttentionPatterns]) -> dict[str, AttentionPatterns]:
    results = [side] if isinstance(side, AttentionPatterns) else side
    return {result.prompt_id or str(number): result for number, result in enumerate(results)}


def _widget(prompts: list[dict[str, Any]], title: str) -> Widget:
    return Widget("attention", {"prompts": prompts}, title, circuitsvis=True, height=760)


def _compared(base: AttentionPatterns, tuned: AttentionPatterns) -> dict[str, Any]:
    if base.layers != tuned.layers or base.sink_share.shape != tuned.sink_share.shape:
        raise InputError(f"base has layers {list(base.layers)} and tuned {list(tuned.layers)}: expected the same")
    sides = [(name, f"{name}: {r.provenance.model}", r) for name, r in (("base", base), ("tuned", tuned))]
    same = base.tokens == tuned.tokens
    kept = bool(base.patterns.numel() and tuned.patterns.numel())
    if not (same and kept):
        heads = _best(tuned)
        why = "" if same else "the models read different texts (each its own response): heads are not ordered by change"
        return _prompt(sides, heads, [], note=why)
    moved = distances_of(base, tuned)[0]
    order = np.argsort(-moved, axis=None, kind="stable")[:HEADS]
    heads, distances = [], []
    for flat in order:
        i, head = (int(x) for x in np.unravel_index(flat, moved.shape))
        heads.append((base.layers[i], head))
        distances.append(f"JS distance {moved[i, head]:.2g}")
    return _prompt(sides, heads, distances)


def _best(result: AttentionPatterns) -> list[tuple[int, int]]:
    top = result.top(HEADS)
    return list(zip(top["layer"].tolist(), top["head_index"].tolist(), strict=True))


def _prompt(
    sides: list[tuple[str, str, AttentionPatterns]],
    heads: Sequence[tuple[int, ...]],
    notes: Sequence[str],
    note: str = "",
) -> dict[str, Any]:
    first = sides[0][2]
    text = " ".join("".join(first.tokens[first.n_special : first.n_special + first.n_prompt]).split())
    label = f"{first.prompt_id}: {text}" if first.prompt_id else text
    kept = all(result.patterns.numel() for _, _, result in sides)
    room = max(FEWEST_HEADS, BYTES // max(1, max(len(result.tokens) for _, _, result in sides) ** 2))
    shown = list(heads)[:room] if kept else []
    total = first.sink_share.numel()
    how = "that changed most" if notes else "that look most at the instruction, or least at the first token"
    facts = [f"{len(shown)} of {total} heads, those {how}"] if kept else ["the patterns were not kept"]
    facts += [note] if note else []
    facts.append("rows are queries, columns are keys; raw prompt, no chat template")
    return {
        "label": label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…",
        "facts": "; ".join(facts),
        "sides": [{"role": role, "name": name, "tokens": list(result.tokens)} for role, name, result in sides],
        "heads": [
            {
                "name": " · ".join([f"L{layer} H{head}", *notes[n : n + 1]]),
                "facts": [_facts(result, layer, head) for _, _, result in sides],
                "patterns": [packed(result.patterns[result.layers.index(layer), head]) for _, _, result in sides],
            }
            for n, (layer, head) in enumerate(shown)
        ],
    }


def _facts(result: AttentionPatterns, layer: int, head: int) -> str:
    where = result.layers.index(layer), head
    values = {name: float(getattr(result, name)[where]) for name in MEASURES}
    return "; ".join(f"{NAMES[name]} {value:.2g}" for name, value in values.items() if not math.isnan(value))


@register_view
def show_attention_shift(result: AttentionShift) -> Widget:
    """Return the map of how far each head's attention moved, with the controls' band."""
    columns = [
        "layer",
        "head_index",
        *(f"{d}{end}" for d in DISTANCES for end in ("", "_control_low", "_control_high")),
    ]
    top = pd.DataFrame(result.top(TOP), columns=columns)
    data = {
        "facts": _shift_facts(result),
        "claim": None if result.whole is None else f"Mean JS distance of all heads: {result.whole}.",
        "layers": list(result.layers),
        "heads": list(range(result.distances.shape[-1])),
        "measures": _measures(result),
        "note": "tuned − base",
        "columns_of_head": ["", *(name.replace("_", " ") for name in STATISTICS)],
        "of_head": _of_heads(result),
        "caption": "Heads by JS distance; the controls' band beside it",
        "columns": [name.replace("_", " ") for name in columns],
        "top": [[_number(x) for x in row] for row in top.itertuples(index=False)],
    }
    title = f"Attention shift: {result.provenance.model}"
    return Widget("attention_shift", data, title, height=760, fallback=table_html(top, "Heads by JS distance"))


def _measures(result: AttentionShift) -> list[dict[str, Any]]:
    found = [
        {
            "label": NAMES[name],
            "how": HOW[name],
            "signed": False,
            "values": _nested(values),
            "low": _nested(band[0]),
            "high": _nested(band[1]),
        }
        for name, values, band in zip(DISTANCES, result.distances, result.distance_band, strict=True)
    ]
    place = {name: i for i, name in enumerate(STATISTICS)}
    for name, values in zip(MEASURES, result.measures, strict=True):
        if not bool(values[place["difference"]].isnan().all()):
            found.append(
                {
                    "label": f"{NAMES[name]}, difference",
                    "how": "tuned − base, mean over prompts: blue where the base has more, orange where tuned.",
                    "signed": True,
                    "values": _nested(values[place["difference"]]),
                    "low": _nested(values[place["control_low"]]),
                    "high": _nested(values[place["control_high"]]),
                }
            )
    return found


def _of_heads(result: AttentionShift) -> list[list[list[list[Any]]]]:
    rows = [
        [[[NAMES[name], *_nested(result.measures[m, :, i, h])] for m, name in enumerate(MEASURES)] for h in heads]
        for i, heads in enumerate([range(result.distances.shape[-1])] * len(result.layers))
    ]
    return [[[row for row in head if any(x is not None for x in row[1:])] for head in layer] for layer in rows]


def _shift_facts(result: AttentionShift) -> str:
    options = result.provenance.options
    controls = len(result.provenance.controls)
    beside = (
        f"{controls} controls" if controls else "no controls: nothing says how far a meaningless change would move it"
    )
    return f"{result.provenance.model} against {options['base']}; {options['n_prompts']} prompts; {beside}"


def _nested(values: Tensor) -> Any:
    return _rounded(values.tolist())


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> int | float | None:
    number = float(value)
    if math.isnan(number):
        return None
    return int(number) if isinstance(value, int | np.integer) else float(f"{number:.4g}")
