"""Where each head looks, and how tuning moved that."""

from typing import Literal

from lensdiff.analyses.attention.defaults import KEPT_PROMPTS, SINK
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Layers, Number, Options, option


class AttentionOptions(Options):
    """Options of `attention`."""

    layers: Layers | None = option(None, "Layers that are read; by default all.", example=[0, 1, 2])
    sink: Literal["apart", "counted"] = option(
        SINK, "apart: the first token counts for no part; counted: where it lies."
    )
    keep_patterns: Number = option(KEPT_PROMPTS, "Prompts whose whole attention patterns stay on disk, the first ones.")


ANALYSIS = Analysis(
    name="attention",
    question="Where each head looks, and how tuning moved that",
    more="All models read the tuned model's response; meaningless changes of the same size stand beside the real one.",
    beside="the band of control models",
    options=AttentionOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    effects=("attention",),
)
