"""The steps that attribute responses to their prompts, and score the instructions of all of them."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from lensdiff.analyses.attribute import AttributeOptions
from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.curves import DeletionCurve
from lensdiff.analyses.attribute.defaults import CURVE_POINTS
from lensdiff.analyses.attribute.deletion_curve import deletion_curve
from lensdiff.analyses.attribute.gradients import rows_of
from lensdiff.analyses.attribute.measure import Method, attribute
from lensdiff.analyses.attribute.replication import of_own
from lensdiff.analyses.attribute.target_names import CHOICE
from lensdiff.analyses.attribute.targets import target_named
from lensdiff.analyses.attribute.text_choices import TextChoices
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.aligned_text import align_text
from lensdiff.models.identity import digest_of
from lensdiff.models.text import Response, encode
from lensdiff.results import InputError
from lensdiff.results.manifest import Kept
from lensdiff.steps import responses
from lensdiff.steps.beside import tell_failures, told_once
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.options import Options
from lensdiff.steps.plan import Plan, sides_and_prompts
from lensdiff.steps.probe import PROBED_TOKENS, Probe
from lensdiff.steps.step import SMALL, NotPossible, Read, Step, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, model_columns, of_one, of_prompts
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

CURVES, CHOICES = "deletion_curves", "attribution_choices"


# a unit per model and prompt, controls among them
def units(plan: Plan, options: AttributeOptions) -> list[Unit]:
    controls = plan.controls.get("attribute", ())
    return [*sides_and_prompts(plan), *(Unit(control, prompt) for control in controls for prompt in plan.prompts)]


def reads(plan: Plan, unit: Unit, options: AttributeOptions) -> Iterable[Read]:
    if options.target == CHOICE:
        return [*validity_of(plan, unit), Read(CHOICES, Unit(prompt=unit.prompt))]
    return [Read(responses.CONTROL_STEP if unit.control else responses.RESPONSES_STEP, unit)]


def work(inputs: Inputs, unit: Unit, options: AttributeOptions) -> Attribution:
    """Attribute to the prompt a model's own response, or where both models' choices are asked for, the tuned one's."""
    response, target = _asked(inputs, unit, options)
    draws = 0 if unit.control else options.deletion_draws
    return attribute(
        inputs.model,
        inputs.prompt,
        response,
        target=target,
        path=options.path,
        baseline=options.baseline,
        nodes=options.nodes,
        method=options.method,
        deletion_draws=draws,
    )


def _asked(inputs: Inputs, unit: Unit, options: AttributeOptions) -> tuple[Response | str | None, Any]:
    """Return the response and the target of a unit."""
    assert unit.model is not None
    if options.target == CHOICE:
        choices = inputs.found.one(CHOICES, TextChoices, Unit(prompt=unit.prompt))
        side = "tuned" if unit.model == "tuned" else "base"  # a control has the base's vocabulary
        return None, choices.target(view_of(inputs.model), inputs.prompt, side)
    response = responses.said(inputs.found, unit.model, inputs.prompt.id)
    if options.retokenise and isinstance(response, Response) and response.text.strip():
        response = response.text
    return response, target_named(options.target)


def choice_reads(plan: Plan, unit: Unit, options: Options) -> Iterable[Read]:
    return [Read(responses.RESPONSES_STEP, Unit("tuned", unit.prompt))]


def choices(inputs: Inputs, unit: Unit, options: Options) -> TextChoices:
    """Return what both models would say at each token of the tuned model's response.

    Raises:
        NotPossible: the models read it as different tokens, or it is empty.
    """
    said = responses.said(inputs.found, "tuned", inputs.prompt.id)
    try:
        text = align_text(inputs.pair, inputs.prompt, said, max_new_tokens=1, prepend_bos=None)
        return TextChoices.of(inputs.pair, text)
    except InputError as error:
        raise NotPossible(str(error)) from None


def choice_cost(probe: Probe, unit: Unit, options: Options) -> float:
    return probe.read(len(SIDES) * probe.n_text, passes=len(SIDES))


def cost(probe: Probe, unit: Unit, options: AttributeOptions) -> float:
    each, per_row = probe.once("attribution", _seconds_of_rows)
    scores = each + per_row * _rows(probe, probe.n_prompt, probe.n_response, options.method)
    scores *= options.nodes if options.path == "integrated" else 1
    if unit.control or not options.deletion_draws:
        return scores
    return scores + probe.read((1 + options.deletion_draws) * probe.n_text)  # its own tokens' deletion, and the draws'


def size(probe: Probe, unit: Unit, options: AttributeOptions, kept: Kept) -> float:
    return SMALL + 4 * probe.n_prompt * probe.n_response


def _rows(probe: Probe, n_in: int | float, n_out: int | float, method: Method) -> float:
    rows = rows_of(probe.view.widened(), n_in, n_out)
    return min(rows.values()) if method == "auto" else rows[method]


def _seconds_of_rows(probe: Probe) -> tuple[float, float]:
    """Return the seconds of an attribution, and of each row that it computes beside that: of two short responses."""
    for prompt in probe.prompts.values():
        try:
            start = encode(probe.view, prompt)
            # as long a response as is timed, of any tokens: what a model would say is no matter here
            ids = (start.ids[start.n_special :] * PROBED_TOKENS)[:PROBED_TOKENS]
            rows = [_rows(probe, start.n_prompt, n, "auto") for n in (1, PROBED_TOKENS)]
            short, long = probe.bench.measure(lambda view, p=prompt, ids=ids: _attributed(view, p, ids), grad=True)
        except InputError:  # its own unit says why
            continue
        per_row = max(0.0, long - short) / (rows[1] - rows[0])
        return max(0.0, long - rows[1] * per_row), per_row
    return 0.0, 0.0


def _attributed(view: ModelView, prompt: Prompt, ids: tuple[int, ...]) -> list[Callable[[], object]]:
    """Return the attributions of a response of one token, and of all of them."""
    said = [
        Response(str(view.tokenizer.decode(list(ids[:n]))), ids[:n], view.info.id, digest_of(view))
        for n in (1, len(ids))
    ]
    return [lambda r=response: attribute(view, prompt, r, deletion_draws=0) for response in said]


# what happens as tokens are removed: both models on the tuned model's response to the first prompts
def curve_units(plan: Plan, options: AttributeOptions) -> list[Unit]:
    # a choice of both models is of the tuned model's text alone: there is no map of a model's own to order tokens by
    return one_unit(plan, options) if options.curve_prompts and options.target != CHOICE else []


def curve_reads(plan: Plan, unit: Unit, options: AttributeOptions) -> Iterable[Read]:
    own = [read for prompt in list(plan.prompts)[: options.curve_prompts] for read in responses.of_prompt(prompt)]
    return [Read(read.step, read.unit, required=False) for read in own]


def curves(inputs: Inputs, unit: Unit, options: AttributeOptions) -> DeletionCurve:
    """Remove the tokens of the first prompts, those first that the maps of both models call most important.

    Raises:
        NotPossible: none of them was answered by both models, or none could be read.
    """
    prompts = [inputs.prompts[name] for name in inputs.found.prompts(responses.RESPONSES_STEP, *SIDES)]
    said = responses.own_texts(inputs, prompts, "tuned", options.curve_tokens)
    read = [(p, s) for p, s in zip(prompts, said, strict=True) if not isinstance(s, str) or s.strip()]
    if not read:
        raise NotPossible("none of the first prompts was answered by both models")
    how: Any = {name: getattr(options, name) for name in ("path", "baseline", "nodes", "method")}
    how["target"] = target_named(options.target)
    how |= {"draws": options.curve_draws, "seed": inputs.seed, "progress": False}
    try:
        with told_once():
            found = deletion_curve(inputs.pair, [prompt for prompt, _ in read], [text for _, text in read], **how)
    except InputError as error:
        raise NotPossible(str(error)) from None
    tell_failures(inputs, "tokens removed", found.failures)
    return found


def curve_cost(probe: Probe, unit: Unit, options: AttributeOptions) -> float:
    # a map of each model, and a text for every point of every order
    n_out = min(probe.n_response, options.curve_tokens)
    each, per_row = probe.once("attribution", _seconds_of_rows)
    scores = each + per_row * _rows(probe, probe.n_prompt, n_out, options.method)
    scores *= options.nodes if options.path == "integrated" else 1
    texts = (2 * (len(SIDES) + 1) + options.curve_draws) * (CURVE_POINTS - 1)
    n_prompts = min(options.curve_prompts, len(probe.prompts))
    return len(SIDES) * n_prompts * (scores + probe.read(texts * (probe.n_prompt / 2 + n_out)))


def score_table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    """Score every response's instruction, for both models and every control: one table."""
    rows = []
    for unit in found.units("attribution"):
        result = found.one("attribution", Attribution, unit)
        if bool(result.instruction.any()):
            n_in, n_out = result.scores.shape
            row = {"prompt_id": result.prompt_id}
            row |= model_columns(unit.model or "", result.provenance.control)
            rows.append(row | {"instruction_score": result.instruction_score(), "n_in": n_in, "n_out": n_out})
    if not rows:
        raise NotPossible("no prompt marks an instruction")
    return [pd.DataFrame(rows).astype({"seed": "Int64"})]


def replication_table(found: Found, options: Any) -> Iterable[pd.DataFrame]:
    """Compare both models' scores as the paper does, where its target was attributed."""
    replicated = of_own(*(found.each("attribution", Attribution, side) for side in SIDES))
    return [] if replicated is None else [replicated.to_df()]


STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    responses.CONTROL_RESPONSES,
    Step(
        name=CHOICES,
        title="choices of both models",
        options=Options,
        result=TextChoices,
        units=no_units,
        work=choices,
        cost=choice_cost,
        reads=choice_reads,
        kept=none_kept,
        needs=frozenset({"pair", "prompt"}),
    ),
    Step(
        name="attribution",
        title="attribution",
        options=AttributeOptions,
        result=Attribution,
        units=units,
        work=work,
        cost=cost,
        size=size,
        reads=reads,
        needs=frozenset({"model", "prompt"}),
        keys=("target", "path", "baseline", "nodes", "method", "deletion_draws", "retokenise"),
    ),
    Step(
        name=CURVES,
        title="tokens removed",
        options=AttributeOptions,
        result=DeletionCurve,
        units=curve_units,
        work=curves,
        cost=curve_cost,
        reads=curve_reads,
        needs=frozenset({"pair", "prompts", "seed"}),
        keys=("target", "path", "baseline", "nodes", "method", "curve_prompts", "curve_draws", "curve_tokens"),
        lacks=lambda found: found.failures,
    ),
)
_CURVE = {
    "order": "whose map the tokens are ordered by, most important first: base, tuned, or difference (tuned - base)",
    "model": "base, tuned, or tuned - base",
    "by": "deletion (the first tokens are removed) or insertion (they alone are put in)",
}
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "attribution",
        "a token of the prompt and one of the response, for each model's own response",
        {
            "score": "importance: gradient of the target times input embedding",
            "level": "0 to 10 within its out_pos",
        },
        of=("attribution",),
        build=of_prompts("attribution", Attribution),
    ),
    TableDoc(
        "instruction_scores",
        "a prompt that marks an instruction, and a model",
        {
            "model": "base, tuned or control",
            "instruction_score": "summed normalised importance density / log2(2 + instruction tokens)",
            "n_in": "tokens of the prompt",
            "n_out": "tokens of the response",
        },
        of=("attribution",),
        build=score_table,
    ),
    TableDoc(
        "deletion_curves",
        "a prompt, an order of its tokens, a model (base, tuned) or tuned - base, a way, and a point of the curve",
        {
            **_CURVE,
            "tokens": "how many are removed, or put in",
            "share": "of those that can be",
            "log_prob": "of the response, mean over its tokens, nats; missing of tuned - base",
            "change": "what is lost since none was removed, or won since none was put in, nats per token",
            "random_low": "limits within which one more random order lies; missing with fewer than 19",
            "random_high": "as random_low",
        },
        of=(CURVES,),
        build=of_one(CURVES, DeletionCurve),
    ),
    TableDoc(
        "deletion_areas",
        "an order of tokens, a model (base, tuned) or tuned - base, and a way",
        {
            **_CURVE,
            "n": "prompts",
            "area": "under the curve over the share of tokens, mean over prompts, nats per token",
            "random": "the same of random orders, mean",
            "random_low": "limits within which one more random order lies; missing with fewer than 19",
            "random_high": "as random_low",
        },
        of=(CURVES,),
        build=of_one(CURVES, DeletionCurve, DeletionCurve.summary),
    ),
    TableDoc(
        "replication",
        "a way to have the paper's instruction score of the pair, paired by prompt",
        {
            "way": "own responses, both cut to one length, and each with the target log p",
            "n": "prompts with at least 5 response tokens in both models",
            "n_left_out": "prompts with a shorter response, left out",
            "n_empty": "those of them with an empty one",
            "base": "mean score of the base",
            "tuned": "of the tuned model",
            "difference": "tuned - base",
            "low": "limits of the difference over prompts",
            "high": "as low",
            "p": "paired by prompt; a description, no verdict",
            "answer": "rose, fell or no change shown",
            "depends_on_length": "whether the ways do not all answer alike",
        },
        of=("attribution",),
        build=replication_table,
    ),
)
