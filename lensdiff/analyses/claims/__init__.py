"""The paper's three claims, answered for a pair."""

from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Options


class ClaimOptions(Options):
    """There is nothing to choose."""


ANALYSIS = Analysis(
    name="claims",
    question="Three claims of the paper, for this pair",
    beside="every kind of control models, with Holm's correction over the claims",
    options=ClaimOptions,
    done="always",
)
