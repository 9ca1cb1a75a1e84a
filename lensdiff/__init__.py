"""See what instruction tuning changed inside a language model: a base model against its tuned version."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensdiff.analyses.annotate import annotate as annotate
    from lensdiff.analyses.attention import AttentionPatterns as AttentionPatterns
    from lensdiff.analyses.attention import attention as attention
    from lensdiff.analyses.attention_shift import attention_shift as attention_shift
    from lensdiff.analyses.attribute import attribute as attribute
    from lensdiff.analyses.attribution import Attribution as Attribution
    from lensdiff.analyses.coherence import coherence as coherence
    from lensdiff.analyses.concepts import MLPConcepts as MLPConcepts
    from lensdiff.analyses.concepts import mlp_concepts as mlp_concepts
    from lensdiff.analyses.heads import HeadWordPairs as HeadWordPairs
    from lensdiff.analyses.heads import head_word_pairs as head_word_pairs
    from lensdiff.analyses.instruction_use import instruction_use as instruction_use
    from lensdiff.analyses.output_shift import output_shift as output_shift
    from lensdiff.analyses.ov_reading import ov_reading as ov_reading
    from lensdiff.analyses.pair_overlap import pair_overlap as pair_overlap
    from lensdiff.analyses.rotation import rotation as rotation
    from lensdiff.analyses.value_rotation import value_rotation as value_rotation
    from lensdiff.analyses.verb_shift import verb_shift as verb_shift
    from lensdiff.analyses.weight_shift import weight_shift as weight_shift
    from lensdiff.inputs.prompts import Prompt as Prompt
    from lensdiff.inputs.prompts import load_prompts as load_prompts
    from lensdiff.inputs.published import load_published as load_published
    from lensdiff.inputs.vocabulary import Vocabulary as Vocabulary
    from lensdiff.inputs.word_vectors import WordVectors as WordVectors
    from lensdiff.models.loading.load import load_model as load_model
    from lensdiff.models.pair import ModelPair as ModelPair
    from lensdiff.models.pair import load_pair as load_pair
    from lensdiff.models.text import Response as Response
    from lensdiff.models.text import generate as generate
    from lensdiff.pipeline import run as run
    from lensdiff.results import Diff as Diff
    from lensdiff.views.report import Report as Report

# A name is imported when it is first asked for: `import lensdiff` and the command's help stay instant.
_HOMES = {
    "inputs.prompts": ("Prompt", "load_prompts"),
    "inputs.published": ("load_published",),
    "inputs.vocabulary": ("Vocabulary",),
    "inputs.word_vectors": ("WordVectors",),
    "results": ("Diff",),
    "models.loading": ("load_model",),
    "models.pair": ("ModelPair", "load_pair"),
    "models.text": ("Response", "generate"),
    "analyses.attribute": ("attribute",),
    "analyses.attribution": ("Attribution",),
    "analyses.heads": ("HeadWordPairs", "head_word_pairs"),
    "analyses.verb_shift": ("verb_shift",),
    "analyses.pair_overlap": ("pair_overlap",),
    "analyses.ov_reading": ("ov_reading",),
    "analyses.attention": ("AttentionPatterns", "attention"),
    "analyses.attention_shift": ("attention_shift",),
    "analyses.concepts": ("MLPConcepts", "mlp_concepts"),
    "analyses.rotation": ("rotation",),
    "analyses.coherence": ("coherence",),
    "analyses.annotate": ("annotate",),
    "analyses.output_shift": ("output_shift",),
    "analyses.weight_shift": ("weight_shift",),
    "analyses.value_rotation": ("value_rotation",),
    "analyses.instruction_use": ("instruction_use",),
    "pipeline": ("run",),
    "views.report": ("Report",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lensdiff' has no attribute {name!r}")
    value = getattr(import_module(f"lensdiff.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
