"""Which response tokens tuning changed."""

from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Options


class OutputOptions(Options):
    """There is nothing to choose."""


ANALYSIS = Analysis(
    name="outputs",
    question="Which response tokens tuning changed",
    more="Both models read the tuned model's response.",
    beside="base against base is exactly 0",
    options=OutputOptions,
    asks=frozenset({"prompts"}),
    effects=("output_shift",),
)
