"""A default stands in one place: an option's is that of the function which it is handed to."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from lensdiff.analyses.activation_difference import ActivationDifferenceOptions
from lensdiff.analyses.activation_difference.measure import activation_difference, control_difference
from lensdiff.analyses.activation_difference.result import ActivationDifference
from lensdiff.analyses.attention import AttentionOptions
from lensdiff.analyses.attention.patterns import attention
from lensdiff.analyses.attribute import AttributeOptions
from lensdiff.analyses.attribute.deletion_curve import deletion_curve
from lensdiff.analyses.attribute.measure import attribute
from lensdiff.analyses.directions import DirectionOptions
from lensdiff.analyses.directions.measure import directions
from lensdiff.analyses.dose import DoseOptions
from lensdiff.analyses.dose.measure import dose
from lensdiff.analyses.first_divergence import FirstDivergenceOptions
from lensdiff.analyses.first_divergence.measure import first_divergence
from lensdiff.analyses.heads import HeadOptions
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs, head_word_pairs
from lensdiff.analyses.heads.ov_reading import ov_reading
from lensdiff.analyses.heads.pair_overlap import pair_overlap
from lensdiff.analyses.heads.verb_shift import verb_shift
from lensdiff.analyses.instruction_use import InstructionUseOptions
from lensdiff.analyses.instruction_use.measure import instruction_use
from lensdiff.analyses.knock_out import KnockOutOptions
from lensdiff.analyses.knock_out.both import knock_out_shift
from lensdiff.analyses.knock_out.measure import knock_out
from lensdiff.analyses.mlp import MLPOptions
from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.mlp.concepts import mlp_concepts
from lensdiff.analyses.mlp.rotation import rotation
from lensdiff.analyses.patch import PatchOptions
from lensdiff.analyses.patch.measure import patch_sweep
from lensdiff.analyses.template_effects import TemplateEffectsOptions
from lensdiff.analyses.template_effects.measure import template_effects
from lensdiff.analyses.value_rotation import ValueRotationOptions
from lensdiff.analyses.value_rotation.measure import value_rotation
from lensdiff.models.text import generate
from lensdiff.steps.options import Options
from lensdiff.steps.responses import ResponseOptions

PAIRS: list[tuple[type[Options], Callable[..., Any]]] = [
    (ActivationDifferenceOptions, activation_difference),
    (ActivationDifferenceOptions, control_difference),
    (ActivationDifferenceOptions, ActivationDifference.effects),
    (AttentionOptions, attention),
    (AttributeOptions, attribute),
    (AttributeOptions, deletion_curve),
    (DirectionOptions, directions),
    (DoseOptions, dose),
    (FirstDivergenceOptions, first_divergence),
    (HeadOptions, head_word_pairs),
    (HeadOptions, HeadWordPairs.table),
    (HeadOptions, verb_shift),
    (HeadOptions, pair_overlap),
    (HeadOptions, ov_reading),
    (InstructionUseOptions, instruction_use),
    (KnockOutOptions, knock_out),
    (KnockOutOptions, knock_out_shift),
    (MLPOptions, mlp_concepts),
    (MLPOptions, concept_directions),
    (MLPOptions, rotation),
    (PatchOptions, patch_sweep),
    (TemplateEffectsOptions, template_effects),
    (ValueRotationOptions, value_rotation),
    (ResponseOptions, generate),
]
OTHERWISE_MEANT = {
    ("AttentionOptions", "keep_patterns"),  # of the option a number of prompts, of the function yes or no
    ("ActivationDifferenceOptions", "max_texts", "effects"),  # there what the option calls effect_texts
}


@pytest.mark.parametrize(("options", "function"), PAIRS, ids=lambda value: value.__name__)
def test_an_option_has_the_default_of_its_function(options, function):
    parameters = inspect.signature(function).parameters
    shared = [name for name in options.model_fields if name in parameters]
    assert shared
    for name in shared:
        if {(options.__name__, name), (options.__name__, name, function.__name__)} & OTHERWISE_MEANT:
            continue
        own, theirs = getattr(options(), name), parameters[name].default
        assert own == (list(theirs) if isinstance(theirs, tuple) else theirs), name
