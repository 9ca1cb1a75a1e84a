"""The forced response coloured by how far apart the models' next-token distributions are; both at a chosen token."""

import math
from collections.abc import Sequence
from typing import Any

from lensdiff.analyses.outputs.output_shift import KINDS, OutputShift
from lensdiff.views.fallback import table_html
from lensdiff.views.show import register_many, register_view
from lensdiff.views.widget import Widget

LABEL_LENGTH = 90
LIKELY = 6  # tokens of each model at a position
CHANGED = 15
OUTSIDE = 0.01  # a mean probability of unshared tokens that is worth a word


@register_view
def show_output_shift(result: OutputShift) -> Widget:
    """Return the coloured response of one prompt."""
    return outputs_widget([result])


@register_many(OutputShift)
def outputs_widget(results: Sequence[OutputShift]) -> Widget:
    """Return the coloured responses of several prompts, one chosen at a time."""
    name = results[0].provenance.model if results else ""
    fallback = "".join(
        table_html(result.top(), f"{result.prompt_id} the tokens that differ most".strip()) for result in results
    )
    prompts = [_prompt(result) for result in results]
    return Widget("outputs", {"prompts": prompts}, f"Outputs: {name}", height=760, fallback=fallback)


def _prompt(result: OutputShift) -> dict[str, Any]:
    text = " ".join(result.prompt.split())
    label = f"{result.prompt_id}: {text}" if result.prompt_id else text
    options = result.provenance.options
    base = str(options["base"])
    tuned = result.provenance.model.removeprefix(f"{base} -> ")
    changed = result.changed_tokens(CHANGED)
    return {
        "label": label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…",
        "names": [f"base: {base}", f"tuned: {tuned}"],
        "facts": facts(result),
        "tokens": list(result.out_tokens),
        "first": int(result.kl.argmax()) if len(result.kl) else 0,
        "kl": _short(result.kl.tolist()),
        "js": _short(result.js.tolist()),
        "kinds": list(result.kinds),
        "choice_rank": result.choice_rank.tolist(),
        "ranks": result.rank.tolist(),
        "probabilities": [_short(side) for side in result.probability.tolist()],
        "words": list(result.words),
        "likely": [
            [
                [[int(i), float(f"{p:.3g}")] for i, p in zip(words[:LIKELY], chances[:LIKELY], strict=True)]
                for words, chances in zip(*side, strict=True)
            ]
            for side in zip(result.likely.tolist(), result.likely_probability.tolist(), strict=True)
        ],
        "changed": [[row[0], *_short(list(row[1:]))] for row in changed.itertuples(index=False)],
    }


def facts(result: OutputShift) -> str:
    """Return what belongs beside a response in one line."""
    if not result.out_tokens:
        return "the response is empty"
    kinds = ", ".join(f"{result.kinds.count(kind) / len(result.kinds):.0%} {kind}" for kind in KINDS)
    k = result.likely.shape[-1]
    parts = [
        f"mean KL(tuned || base) {float(result.kl.mean()):.3g} nats, mean Jensen-Shannon distance "
        f"{float(result.js.mean()):.3g}",
        kinds,
        f"{float(result.agreement.mean()):.0%} of the {k} most probable tokens shared",
    ]
    base, tuned = result.outside.double().mean(dim=1).tolist()
    if max(base, tuned) > OUTSIDE:
        parts.append(
            f"left out: tokens that one model alone has, {base:.1%} of the base's and {tuned:.1%} of the tuned"
        )
    if result.merged:
        parts.append("the tokenizer merged prompt and response at their boundary")
    parts.append(f"response {'as generated' if result.response_kind == 'generated' else 'given as text'}")
    parts.append("raw prompt, no chat template")
    return "; ".join(parts)


def _short(values: list[float]) -> list[float | None]:
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
