"""Which heads and MLPs carry the difference: one model's activations put into the other."""

from typing import Literal

from lensdiff.analyses.patch.defaults import PROMPTS, READ_TOKENS, RERUN
from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Count, Layers, Options, option


class PatchOptions(Options):
    """Options of `patch_sweep`, and of the set of heads whose verbs rose most."""

    layers: Layers | None = option(None, "Layers that are patched; by default all.", example=[0, 1, 2])
    max_prompts: Count = option(PROMPTS, "Only the first prompts.")
    max_tokens: Count = option(READ_TOKENS, "Tokens of the tuned model's response that are read.")
    method: Literal["exact", "estimate"] = option(
        "exact", "exact: every row is run; estimate: ranked by gradients, and the first rows run."
    )
    rerun: Count = option(RERUN, "Rows of each direction that are run after an estimate.")
    set_size: Count | None = option(
        None, "Heads whose verbs rose most, patched together; by default a tenth of all, 5 at least.", example=5
    )


ANALYSIS = Analysis(
    name="patch",
    question="Which heads and MLPs carry what changed",
    more="Both models read the tuned model's response; what one model has at a head, an MLP or the residual stream is "
    "put into the other. Effects of single parts do not add up to the whole.",
    beside="other heads of the same layer, random sets of heads; control models",
    options=PatchOptions,
    asks=frozenset({"prompts"}),
    controls=19,
    first_kind=True,
)
