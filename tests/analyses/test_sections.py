"""Which sections the report has, and in which order."""

from lensdiff.analyses import ANALYSES
from lensdiff.pipeline.report import in_order


def test_every_analysis_has_a_section_and_they_are_ordered():
    names = [analysis.name for analysis, _ in in_order(ANALYSES)]
    assert set(names) == {analysis.name for analysis in ANALYSES}
    assert names == [
        "claims",
        "instruction_use",
        "knock_out",
        "dose",
        "attribute",
        "outputs",
        "template_effects",
        "first_divergence",
        "layer_similarity",
        "residual_stream",
        "directions",
        "activation_difference",
        "heads",
        "attention",
        "patch",
        "mlp",
        "annotate",
        "value_rotation",
        "weights",
    ]
