"""What components mean, asked of a chat model."""

from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Options


class AnnotateOptions(Options):
    """The command has options of its own: it works on a results directory, and asks a server."""


ANALYSIS = Analysis(
    name="annotate",
    question="What concepts mean, asked of a chat model",
    beside="other annotations of the same component",
    options=AnnotateOptions,
    done="apart",
)
