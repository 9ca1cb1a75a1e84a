"""One of everything that is printed: a result of each class on the shipped toy pair with small options, or by hand."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import lensdiff
from lensdiff import stats
from lensdiff.analyses.activation_difference.measure import control_difference
from lensdiff.analyses.annotate.shift import annotation_shift
from lensdiff.analyses.attention.control import control_attention
from lensdiff.analyses.attribute.text_choices import TextChoices
from lensdiff.analyses.dose.measure import control_dose
from lensdiff.analyses.first_divergence.measure import control_divergence
from lensdiff.analyses.knock_out.both import knock_out_shift
from lensdiff.analyses.mlp.components import concept_directions
from lensdiff.analyses.patch.result import ControlPatch
from lensdiff.analyses.published.tables import Following, PublishedTables, Recognition, Sample
from lensdiff.analyses.residual_stream.lens_shift import LensCurves, lens_shift
from lensdiff.analyses.residual_stream.parts_shift import parts_shift
from lensdiff.analyses.series.measure import Along
from lensdiff.analyses.value_rotation.measure import control_rotation
from lensdiff.inputs.toy_pair import BASE, PROMPTS, TUNED
from lensdiff.models.aligned_text import align_text
from lensdiff.results import Diff, Provenance
from lensdiff.steps.pair import PairFacts
from lensdiff.steps.responses import SaidResponse
from lensdiff.steps.validity import ControlValidity
from tests.analyses.activation_difference.results import effects
from tests.analyses.annotate.results import random_annotations
from tests.analyses.claims.results import answers
from tests.analyses.patch.results import set_patch
from tests.analyses.residual_stream.results import model_parts

SHORT = {"max_new_tokens": 4, "progress": False}


class Toy:
    """What functions are called with; each thing is made once."""

    def __init__(self) -> None:
        self.pair = lensdiff.load_pair(BASE, TUNED, device="cpu")
        texts = {"Write a word": "Write a word about the sea.", "Tell me": "Tell me of Tom and the cat."}
        self.prompts = [lensdiff.Prompt(text, part, id=part.split()[0].lower()) for part, text in texts.items()]
        self.controls = [self.pair.control("spectrum", 0), self.pair.control("norm", 1)]
        self.words = lensdiff.Vocabulary.of(lensdiff.Vocabulary.default().words[:300])
        self.vectors = lensdiff.WordVectors.from_model(self.pair.base, self.words.words)
        self.made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = EVERY[name](self)
        return self.made[name]

    def of_pair(self, function: str, *more: Any, **options: Any) -> Any:
        return getattr(lensdiff, function)(self.pair, *more, controls=self.controls, **options)


@cache
def toy() -> Toy:
    return Toy()


def _word_pairs(t: Toy) -> Diff:
    return t.pair.compare(lensdiff.head_word_pairs, t.words, t.vectors, top_k=5, heads=[0, 1])


def _controls_pairs(t: Toy) -> list[Any]:
    return [lensdiff.head_word_pairs(c, t.words, t.vectors, top_k=5, heads=[0, 1]) for c in t.controls]


def _published(t: Toy) -> PublishedTables:
    sample, test = Sample(0.5, 0.1, 9), stats.welch([1.0, 2.0, 3.0], [2.0, 3.0, 5.0])
    one, two = Following(sample, sample, test, test), Recognition(sample, sample, test, test)
    return PublishedTables(Provenance("published", "llama -> vicuna"), {"LIMA": one}, {"LIMA": two}, 0)


def _lens_shift(t: Toy) -> Any:
    sides = [LensCurves.of(t["LogitLens of both"].base), LensCurves.of(t["LogitLens of both"].tuned)]
    return lens_shift(*sides, provenance=t.pair.provenance("logit_lens", {}))


CONCEPTS = {"n_components": 4, "top_words": 6}
PATCH = {"component": "head", "layer": 1, "head": 2}

EVERY: dict[str, Callable[[Toy], Any]] = {
    # on the toy pair
    "ModelPair": lambda t: t.pair,
    "ModelPair not loaded": lambda t: lensdiff.ModelPair(
        {"base": BASE, "tuned": TUNED}, {"base": {}, "tuned": {}}, "both"
    ),
    "ModelView": lambda t: t.controls[0],
    "Vocabulary": lambda t: t.words,
    "WordVectors": lambda t: t.vectors,
    "Prompt": lambda t: t.prompts[0],
    "Response": lambda t: lensdiff.generate(t.pair.tuned, t.prompts[0], **SHORT),
    "Results of Response": lambda t: lensdiff.generate(t.pair.tuned, t.prompts, **SHORT),
    "Diff of Response": lambda t: t.pair.compare(lensdiff.generate, t.prompts[0], **SHORT),
    "Attribution": lambda t: t["Attribution of both"].tuned[0],
    "Results of Attribution": lambda t: t["Attribution of both"].tuned,
    "Attribution of both": lambda t: t.pair.compare(lensdiff.attribute, t.prompts, **SHORT),
    "AttentionPatterns": lambda t: lensdiff.attention(t.pair.tuned, t.prompts[0], " a b"),
    "AttentionPatterns of both": lambda t: t.pair.compare(
        lensdiff.attention, t.prompts, [" a b", " c d"], progress=False
    ),
    "AttentionShift": lambda t: lensdiff.attention_shift(
        t["AttentionPatterns of both"].base, t["AttentionPatterns of both"].tuned, [t["ControlAttention"]]
    ),
    "ControlAttention": lambda t: control_attention(
        t["AttentionPatterns of both"].base,
        lensdiff.attention(t.controls[0], t.prompts, [" a b", " c d"], progress=False),
    ),
    "TextChoices": lambda t: TextChoices.of(
        t.pair, align_text(t.pair, t.prompts[0], " a b c", max_new_tokens=4, prepend_bos=None)
    ),
    "DeletionCurve": lambda t: lensdiff.deletion_curve(t.pair, t.prompts[0], draws=2, points=3, **SHORT),
    "Directions": lambda t: t.of_pair(
        "directions", prompts=lensdiff.load_prompts(PROMPTS)[:4], folds=2, draws=2, permutations=19, **SHORT
    ),
    "Dose": lambda t: t.of_pair("dose", t.prompts, amounts=[0.0, 1.0], groups=["all", "W_out"], **SHORT),
    "ControlDose": lambda t: control_dose(t.pair, t.controls[0], t.prompts, ["a b", "c d"]),
    "FirstDivergence": lambda t: t.of_pair("first_divergence", t.prompts, draws=2, **SHORT),
    "ControlDivergence": lambda t: control_divergence(t.pair.base, t.controls[0], t["FirstDivergence"]),
    "InstructionUse": lambda t: t.of_pair("instruction_use", t.prompts, draws=1, min_tokens=1, **SHORT),
    "InstructionUse of one": lambda t: lensdiff.instruction_use(
        t.pair.tuned, t.prompts, draws=1, min_tokens=1, **SHORT
    ),
    "KnockOut": lambda t: lensdiff.knock_out(t.pair.tuned, t.prompts[0], " a b c", layers="windows", draws=1),
    "KnockOutShift": lambda t: knock_out_shift(t.pair, t.prompts, {"given": ["a b c", "c d e"]}, draws=1),
    "LayerSimilarity": lambda t: t.of_pair("layer_similarity", t.prompts, ["a b", "c d"], progress=False),
    "LogitLens": lambda t: t["LogitLens of both"].tuned[0],
    "LogitLens of both": lambda t: t.pair.compare(lensdiff.logit_lens, t.prompts, [" a b", " c d"], progress=False),
    "LensCurves": lambda t: LensCurves.of(t["LogitLens of both"].tuned),
    "LensShift": _lens_shift,
    "DirectLogitAttribution": lambda t: t["DirectLogitAttribution of both"].tuned,
    "DirectLogitAttribution of both": lambda t: lensdiff.direct_logit_attribution(t.pair, t.prompts[0], " a b"),
    "ModelParts": lambda t: model_parts(Provenance("", "a"), 0.5),
    "PartsShift": lambda t: parts_shift(t["ModelParts"], model_parts(Provenance("", "b", options={"base": "a"}), 0.9)),
    "OutputShift": lambda t: lensdiff.output_shift(t.pair, t.prompts[0], "a b c"),
    "Results of OutputShift": lambda t: lensdiff.output_shift(t.pair, t.prompts, ["a b c", "d"], progress=False),
    "Patched": lambda t: t.of_pair("patch_sweep", t.prompts, ["a b", "c d"], layers=[1], progress=False),
    "Patched, one": lambda t: t.of_pair("patch", t.prompts[0], "a b", **PATCH),
    "SetPatch": lambda t: set_patch(controls={"spectrum": 19}),
    "ControlPatch": lambda t: ControlPatch(
        Provenance("patch_sweep", "a + spectrum"), ("p",), torch.ones(1, 3).double()
    ),
    "TemplateEffects": lambda t: lensdiff.template_effects(
        t.pair, t.prompts, [" a b c", " c d e"], measure=["output_shift", "density"], draws=1
    ),
    "ActivationDifference": lambda t: t.of_pair(
        "activation_difference", ["Tom and Lucy and a cat", "They ran to the sea"]
    ),
    "DifferenceEffects": lambda t: effects(),
    "ControlDifference": lambda t: control_difference(
        t.pair, t.controls[0], ["Tom and Lucy and a cat", "They ran to the sea"]
    ),
    "HeadWordPairs": lambda t: t["HeadWordPairs of both"].tuned,
    "HeadWordPairs of both": _word_pairs,
    "PairOverlap": lambda t: lensdiff.pair_overlap(
        t["HeadWordPairs of both"].base, t["HeadWordPairs of both"].tuned, controls=_controls_pairs(t)
    ),
    "VerbShift": lambda t: lensdiff.verb_shift(
        t["HeadWordPairs of both"].base, t["HeadWordPairs of both"].tuned, controls=_controls_pairs(t)
    ),
    "OVReading": lambda t: lensdiff.ov_reading(t.pair.tuned, t.words),
    "OVReading of both": lambda t: t.pair.compare(lensdiff.ov_reading, t.words),
    "QKReading": lambda t: lensdiff.qk_reading(t.pair.tuned, [("write", "poem"), ("sea", "boat")]),
    "QKReading of both": lambda t: t.pair.compare(lensdiff.qk_reading, [("write", "poem")]),
    "MLPConcepts": lambda t: t["MLPConcepts of both"].tuned,
    "MLPConcepts of both": lambda t: t.pair.compare(lensdiff.mlp_concepts, t.words, **CONCEPTS),
    "ConceptDirections": lambda t: concept_directions(t.controls[0], n_components=4),
    "Coherence": lambda t: lensdiff.coherence(t.pair.tuned, t["MLPConcepts"], t.vectors, top_words=6, n_directions=19),
    "Rotation": lambda t: lensdiff.rotation(
        t["MLPConcepts of both"].base, t["MLPConcepts"], ranks=[1, 2], controls=t.controls
    ),
    "ValueRotation": lambda t: t.of_pair("value_rotation"),
    "ControlRotation": lambda t: control_rotation(t.pair.base, t.controls[0]),
    "WeightShift": lambda t: lensdiff.weight_shift(t.pair),
    "Series": lambda t: lensdiff.series([t.pair.base, t.pair.tuned], "weights.relative_norm"),
    "SeriesPoint": lambda t: Along([t.pair.base, t.pair.tuned], "weights.relative_norm", None, 1, 0, 4, 0.95, {}).point(
        1, None
    ),
    "PositionProfile": lambda t: lensdiff.position_profile(
        t["Attribution of both"].base, t["Attribution of both"].tuned, n_bins=2
    ),
    # by hand
    "Annotations": lambda t: random_annotations(0.4, 1),
    "AnnotationShift": lambda t: annotation_shift(
        random_annotations(0.4, 1, model="a"), random_annotations(0.6, 2, model="b"), n_resamples=99
    ),
    "Claims": lambda t: answers(0.5),
    "PublishedTables": _published,
    "SaidResponse": lambda t: SaidResponse(Provenance("responses", "m"), "p", "word " * 99, (1, 2), False, ""),
    "ControlValidity": lambda t: ControlValidity(t.controls[0].provenance("v", {}), 3.0, 4.0, 2.0, 3.0, True),
    "PairFacts": lambda t: PairFacts(
        Provenance("pair", "a -> b"),
        {},
        {},
        [{"what": "bos", "base": "none", "tuned": "prepended", "meaning": "prompts are tokenised differently"}],
    ),
}
