"""The analyses, one folder per question: measuring modules, `view` draws, `steps` runs, `section` reports.

`ANALYSES` is the one list: the config's keys, the commands and their help, tables, estimates and the report follow
from it.
"""

from typing import Any

from lensdiff.analyses.activation_difference import ANALYSIS as ACTIVATION_DIFFERENCE
from lensdiff.analyses.annotate import ANALYSIS as ANNOTATE
from lensdiff.analyses.attention import ANALYSIS as ATTENTION
from lensdiff.analyses.attribute import ANALYSIS as ATTRIBUTE
from lensdiff.analyses.claims import ANALYSIS as CLAIMS
from lensdiff.analyses.directions import ANALYSIS as DIRECTIONS
from lensdiff.analyses.dose import ANALYSIS as DOSE
from lensdiff.analyses.first_divergence import ANALYSIS as FIRST_DIVERGENCE
from lensdiff.analyses.heads import ANALYSIS as HEADS
from lensdiff.analyses.instruction_use import ANALYSIS as INSTRUCTION_USE
from lensdiff.analyses.knock_out import ANALYSIS as KNOCK_OUT
from lensdiff.analyses.layer_similarity import ANALYSIS as LAYER_SIMILARITY
from lensdiff.analyses.mlp import ANALYSIS as MLP
from lensdiff.analyses.outputs import ANALYSIS as OUTPUTS
from lensdiff.analyses.patch import ANALYSIS as PATCH
from lensdiff.analyses.residual_stream import ANALYSIS as RESIDUAL_STREAM
from lensdiff.analyses.template_effects import ANALYSIS as TEMPLATE_EFFECTS
from lensdiff.analyses.value_rotation import ANALYSIS as VALUE_ROTATION
from lensdiff.analyses.weights import ANALYSIS as WEIGHTS
from lensdiff.steps.analysis import Analysis

ANALYSES: tuple[Analysis[Any], ...] = (
    WEIGHTS,
    INSTRUCTION_USE,
    KNOCK_OUT,
    DOSE,
    ATTRIBUTE,
    OUTPUTS,
    FIRST_DIVERGENCE,
    RESIDUAL_STREAM,
    LAYER_SIMILARITY,
    DIRECTIONS,
    ACTIVATION_DIFFERENCE,
    ATTENTION,
    TEMPLATE_EFFECTS,
    HEADS,
    PATCH,
    MLP,
    VALUE_ROTATION,
    ANNOTATE,
    CLAIMS,
)
