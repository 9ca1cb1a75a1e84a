"""Attention of heads drawn by circuitsvis, base beside tuned, most changed first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensdiff.analyses.attention.distances import distances_of
from lensdiff.analyses.attention.patterns import MEASURES, AttentionPatterns
from lensdiff.results import Diff, InputError
from lensdiff.results.numbers import n_of
from lensdiff.views.prompts import how_rendered, prompt_label, shared_prompts
from lensdiff.views.show import register_diff, register_many, register_view
from lensdiff.views.widget import Role, Widget, packed

HEADS = 12  # drawn for a prompt
FEWEST_HEADS = 3
BYTES = 400_000  # of patterns for a prompt and side, which a page can hold
NAMES = {
    "sink_share": "first token's share",
    "entropy": "entropy (bits)",
    "instruction_share": "instruction's share",
    "context_share": "context's share",
    "rest_share": "the rest's share",
    "template_share": "the chat template's share",
}

Side = tuple[Role, str, AttentionPatterns]  # the colour, the name, and the result


@dataclass(frozen=True)
class SideData:
    """One model's colour, its heading, and the tokens that it read."""

    role: Role
    name: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class HeadData:
    """One head that can be chosen; what has an entry per side goes as `PromptData.sides`.

    Attributes:
        name: layer and head, and how far they moved.
        facts: of each side, its shares in one line.
        patterns: of each side, [query][key] from 0 to 1, as `packed` packs them.
    """

    name: str
    facts: list[str]
    patterns: list[str]


@dataclass(frozen=True)
class PromptData:
    """One prompt that can be chosen.

    Attributes:
        label: under which it is chosen.
        facts: the line above the heads.
        sides: the models.
        heads: those that are drawn, one of which is chosen.
    """

    label: str
    facts: str
    sides: list[SideData]
    heads: list[HeadData]


@dataclass(frozen=True)
class AttentionData:
    """What the script of the patterns is given: prompts, one of which is chosen."""

    prompts: list[PromptData]


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
    return _widget([_compared(base, tuned) for base, tuned in shared_prompts(result)], "Attention: base and tuned")


def _widget(prompts: list[PromptData], title: str) -> Widget:
    return Widget("attention", AttentionData(prompts), title, circuitsvis=True, height=760)


def _compared(base: AttentionPatterns, tuned: AttentionPatterns) -> PromptData:
    if base.layers != tuned.layers or base.sink_share.shape != tuned.sink_share.shape:
        raise InputError(f"base has layers {list(base.layers)} and tuned {list(tuned.layers)}: expected the same")
    sides: list[Side] = [
        ("base", f"base: {base.provenance.model}", base),
        ("tuned", f"tuned: {tuned.provenance.model}", tuned),
    ]
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
        distances.append(f"JS distance here {moved[i, head]:.2g}")
    return _prompt(sides, heads, distances)


def _best(result: AttentionPatterns) -> list[tuple[int, int]]:
    top = result.top(HEADS)
    return list(zip(top["layer"].tolist(), top["head_index"].tolist(), strict=True))


def _prompt(sides: list[Side], heads: Sequence[tuple[int, int]], notes: Sequence[str], note: str = "") -> PromptData:
    """Return a prompt with as many of the heads as a page can hold, each under its note where there is one."""
    results = [result for _, _, result in sides]
    first = results[0]
    kept = all(result.patterns.numel() for result in results)
    room = max(FEWEST_HEADS, BYTES // max(1, max(len(result.tokens) for result in results) ** 2))
    shown = list(heads)[:room] if kept else []
    total = first.sink_share.numel()
    how = "that changed most" if notes else "that look most at the instruction, or least at the first token"
    facts = [f"{len(shown)} of {n_of(total, 'head')}, those {how}"] if kept else ["the patterns were not kept"]
    facts += [note] if note else []
    facts.append(f"rows are queries, columns are keys; {how_rendered(first.provenance)}")
    return PromptData(
        label=prompt_label(first.prompt_id, "".join(first.tokens[first.n_special : first.n_special + first.n_prompt])),
        facts="; ".join(facts),
        sides=[SideData(role, name, result.tokens) for role, name, result in sides],
        heads=[
            HeadData(
                " · ".join([f"L{layer} H{head}", *notes[n : n + 1]]),
                facts=[_facts(result, layer, head) for result in results],
                patterns=[packed(result.patterns[result.layers.index(layer), head]) for result in results],
            )
            for n, (layer, head) in enumerate(shown)
        ],
    )


def _facts(result: AttentionPatterns, layer: int, head: int) -> str:
    where = result.layers.index(layer), head
    values = {name: float(getattr(result, name)[where]) for name in MEASURES}
    return "; ".join(f"{NAMES[name]} {value:.2g}" for name, value in values.items() if not math.isnan(value))
