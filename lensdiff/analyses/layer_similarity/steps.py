"""The steps that compare streams: the pair's, those of controls, and both together."""

from collections.abc import Iterable, Mapping
from typing import Any

from lensdiff.analyses.layer_similarity import LayerSimilarityOptions
from lensdiff.analyses.layer_similarity.measure import control_similarity, layer_similarity
from lensdiff.analyses.layer_similarity.passes import MAX_SUMS
from lensdiff.analyses.layer_similarity.result import LayerSimilarity
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import view_of
from lensdiff.models.aligned_text import GROUPS
from lensdiff.models.layers import chosen_indices
from lensdiff.models.response import Response
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls, tell_failures, told_once
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

PAIR_STEP, CONTROL_STEP, STEP = "layer_similarity_pair", "layer_similarity_control", "layer_similarity"
SLOWER = 2  # than in float32 is a product in float64
ADD_SECONDS = 3e-9  # to add to an entry of a sum


def texts_of(inputs: Inputs, prompts: Iterable[str]) -> dict[str, str | Response]:
    """Return the text that all models read, by the prompt's id, of those that a model answered at all."""
    texts = {name: responses.shared_text(inputs, name) for name in prompts}
    return {name: text for name, text in texts.items() if text is not None}


def of_pair(inputs: Inputs, unit: Unit, options: LayerSimilarityOptions) -> LayerSimilarity:
    """Compare the streams of both models.

    Raises:
        InputError: there is no such layer.
        NotPossible: there is no text that both models can be read on.
    """
    texts = texts_of(inputs, inputs.found.prompts(responses.RESPONSES_STEP, *SIDES))
    if not texts:
        raise NotPossible("both models answer every prompt with nothing: there is no text to read them on")
    prompts = [inputs.prompts[name] for name in texts]
    chosen_indices(options.layers, range(view_of(inputs.pair.base).n_layers + 1), "layers")
    try:
        with told_once():
            found = layer_similarity(
                inputs.pair, prompts, list(texts.values()), layers=options.layers, max_tokens=options.max_tokens
            )
    except InputError as error:  # a stream that cannot be read, or no prompt that both models read alike
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "layer similarity", found.failures)
    return found


def of_control(inputs: Inputs, unit: Unit, options: LayerSimilarityOptions) -> LayerSimilarity:
    """Compare the streams of the base and a control on the same texts."""
    pair = inputs.found.one(PAIR_STEP, LayerSimilarity)
    texts = texts_of(inputs, pair.prompt_id)
    prompts: list[Prompt] = [inputs.prompts[name] for name in texts]
    return control_similarity(inputs.pair, inputs.model, prompts, list(texts.values()), pair)


def both(inputs: Inputs, unit: Unit, options: LayerSimilarityOptions) -> LayerSimilarity:
    """Set the pair beside its controls."""
    alone = inputs.found.one(PAIR_STEP, LayerSimilarity)
    return alone.with_controls(list(inputs.found.each(CONTROL_STEP, LayerSimilarity)))


def pair_reads(plan: Plan, unit: Unit, options: LayerSimilarityOptions) -> Iterable[Read]:
    return responses.of_all(plan)


def control_reads(plan: Plan, unit: Unit, options: LayerSimilarityOptions) -> Iterable[Read]:
    # what the pair cannot be asked, no control is
    return [*validity_of(plan, unit), *responses.of_all(plan), Read(PAIR_STEP)]


def both_reads(plan: Plan, unit: Unit, options: LayerSimilarityOptions) -> Iterable[Read]:
    return [Read(PAIR_STEP), *of_controls(plan, "layer_similarity", CONTROL_STEP)]


def cost(probe: Probe, unit: Unit, options: LayerSimilarityOptions) -> float:
    # both models read every text once for each group of layers whose sums fit; three sums of products a position
    sizes, n = probe.sizes, probe.n_prompt + min(probe.n_response, options.max_tokens)
    n_layers = sizes.n_layers + 1 if options.layers is None else len(options.layers)
    entries = 3 * sizes.d_model**2
    times = -(-n_layers * len(GROUPS) * entries * 8 // MAX_SUMS)
    products = n_layers * len(probe.prompts) * n * 2 * entries
    adding = n_layers * len(GROUPS) * entries * ADD_SECONDS
    reading = len(SIDES) * len(probe.prompts) * probe.read(n) * times
    return reading + SLOWER * products / probe.rate + adding


def lacking(found: LayerSimilarity) -> Mapping[str, str]:
    """Return why prompts are not in a result."""
    return found.failures


_common: Any = {"options": LayerSimilarityOptions, "result": LayerSimilarity}
_needs: Any = frozenset({"pair", "prompts"})
_keys = ("layers", "max_tokens")
STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    Step(PAIR_STEP, "layer similarity", units=no_units, work=of_pair, cost=cost, reads=pair_reads, needs=_needs,
         keys=_keys, kept=none_kept, **_common),
    Step(CONTROL_STEP, "layer similarity of controls", units=no_units, work=of_control, cost=cost, reads=control_reads,
         needs=_needs | {"model"}, keys=_keys, kept=none_kept, **_common),
    Step(STEP, "layer similarity beside controls", units=one_unit, work=both, cost=no_cost, reads=both_reads,
         lacks=lacking, **_common),
)  # fmt: skip
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "layer_similarity",
        "a group of positions and a layer; the number of layers stands for what leaves the last one",
        {
            "group": "all, instruction, context, prompt (its other tokens) or response; position 0 is in none",
            "layer": "whose entering stream is compared",
            "n": "positions of all prompts",
            "cka": "linear CKA of the base's and the tuned model's streams; missing where one of them does not vary",
            "relative_change": "mean over positions of |tuned - base| / |base|",
            "cosine": "mean over positions of the cosine of the two streams",
            "mean_shift_share": "|mean d| / mean |d|, d = tuned - base: 1 where all positions are shifted alike",
            **{f"{name}_low": f"limits of {name} over prompts" for name in ("relative_change", "cosine")},
            **{f"{name}_high": f"as {name}_low" for name in ("relative_change", "cosine")},
        },
        of=(STEP,),
        build=of_one(STEP, LayerSimilarity),
    ),
)
