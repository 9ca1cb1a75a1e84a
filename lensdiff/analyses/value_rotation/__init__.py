"""How much of the values' change is a rotation."""

from lensdiff.steps.analysis import Analysis
from lensdiff.steps.options import Layers, Options, option


class ValueRotationOptions(Options):
    """Options of `value_rotation`."""

    layers: Layers | None = option(None, "Layers that are read; by default all.", example=[0, 1, 2])


ANALYSIS = Analysis(
    name="value_rotation",
    question="How much of the MLP values' change is a rotation",
    options=ValueRotationOptions,
    controls=99,
)
