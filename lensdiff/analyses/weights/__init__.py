"""How far the weights moved."""

from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Options


class WeightOptions(Options):
    """There is nothing to choose."""


ANALYSIS = Analysis(
    name="weights",
    question="How far each weight matrix and head moved",
    beside="base against base is exactly 0",
    options=WeightOptions,
)
