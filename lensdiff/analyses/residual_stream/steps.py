"""The steps that read the residual stream: lens and parts of both models and of controls, then both together."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lensdiff.analyses.residual_stream import ResidualStreamOptions
from lensdiff.analyses.residual_stream.direct import rivals
from lensdiff.analyses.residual_stream.forced import Read as Text
from lensdiff.analyses.residual_stream.forced import read
from lensdiff.analyses.residual_stream.lens import LogitLens, logit_lens
from lensdiff.analyses.residual_stream.lens_shift import LensCurves, LensShift, lens_shift
from lensdiff.analyses.residual_stream.parts_shift import ModelParts, PartsShift, parts_shift
from lensdiff.analyses.residual_stream.split import split
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import view_of
from lensdiff.models.aligned_text import check_positions
from lensdiff.models.forced_text import force_base, force_tuned, translated
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls, tell_failures
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan, sides_and_prompts
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one, of_prompts
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

LENS, CONTROL_LENS, LENS_SHIFT = "logit_lens", "control_logit_lens", "logit_lens_shift"
PARTS, PARTS_SHIFT = "logit_parts", "direct_logit_attribution"
TEST_SECONDS = 1e-3  # of a part's or a layer's difference over prompts
LOGIT_SECONDS = 1e-8  # per entry of the distributions that are compared, beside the product that makes them


# the lens of both models, a unit per prompt
def lens_reads(plan: Plan, unit: Unit, options: ResidualStreamOptions) -> Iterable[Read]:
    assert unit.prompt is not None
    return responses.of_prompt(unit.prompt)


def lens(inputs: Inputs, unit: Unit, options: ResidualStreamOptions) -> LogitLens:
    """Read a model's layers over the response that all models are read on.

    Raises:
        InputError: there is no such response, the models read it as different tokens, or the model's stream cannot be
            read.
    """
    check = aligned([inputs])
    if inputs.prompt.id in check:
        raise check[inputs.prompt.id]
    return _lens(inputs, inputs.prompt.id, options)


def lens_block(
    inputs: Sequence[Inputs], units: Sequence[Unit], options: ResidualStreamOptions
) -> Sequence[LogitLens | InputError]:
    """Read many prompts at once: where one model is held at a time, the models change a few times for all of them."""
    found, check = [], aligned(inputs)
    for own in inputs:
        try:
            found.append(check.get(own.prompt.id) or _lens(own, own.prompt.id, options))
        except InputError as error:
            found.append(error)
    return found


def aligned(inputs: Sequence[Inputs]) -> dict[str, InputError]:
    """Return by prompt why the two models do not read its text as the same tokens, of those that they do not."""
    pair, wrong, forced = inputs[0].pair, {}, {}
    if len(set(pair.digests)) == 1:  # one tokenizer reads a text in one way
        return {}
    tuned = view_of(pair.tuned)
    for name, own in {own.prompt.id: own for own in inputs}.items():
        try:
            forced[name] = force_tuned(pair, tuned, own.prompt, _shared(own, name), prepend_bos=None)
        except InputError as error:
            wrong[name] = error
    base = view_of(pair.base)
    for name, text in forced.items():
        try:
            check_positions(text, force_base(pair, base, text, prepend_bos=None))
        except InputError as error:
            wrong[name] = error
    return wrong


def _lens(inputs: Inputs, prompt: str, options: ResidualStreamOptions) -> LogitLens:
    text = _shared(inputs, prompt)
    return logit_lens(
        inputs.model, inputs.prompt_of(prompt), text, layers=options.layers, max_tokens=options.max_tokens
    )


def _shared(inputs: Inputs, prompt: str) -> Any:
    text = responses.shared_text(inputs, prompt)
    if text is None:
        raise InputError(f"both models answer prompt {prompt!r} with nothing: there is no text to read them on")
    return text


def lens_cost(probe: Probe, unit: Unit, options: ResidualStreamOptions) -> float:
    # each layer's stream goes through the last block, as a text of one token, and the unembedding
    sizes, n_out = probe.sizes, min(probe.n_response, options.max_tokens)
    rows = n_out * (1 + probe.n_layers(unit, options.layers))
    block = probe.parameters / sizes.n_layers
    entries = rows * sizes.d_vocab
    return (
        probe.read(probe.n_prompt + n_out)
        + rows * 2 * (block + sizes.d_model * sizes.d_vocab) / probe.rate
        + (LOGIT_SECONDS * entries)
    )


# the lens of controls, a unit per control
def control_reads(plan: Plan, unit: Unit, options: ResidualStreamOptions) -> Iterable[Read]:
    own = [Read(LENS, unit, required=False) for unit in sides_and_prompts(plan)]
    return [*validity_of(plan, unit), *responses.of_all(plan), *own]


def control_lens(inputs: Inputs, unit: Unit, options: ResidualStreamOptions) -> LensCurves:
    """Read a control's layers, keeping each prompt's means.

    Raises:
        NotPossible: there is no prompt whose layers both models could be read on.
    """
    return LensCurves.of(_lens(inputs, prompt, options) for prompt in _prompts(inputs))


def control_lens_cost(probe: Probe, unit: Unit, options: ResidualStreamOptions) -> float:
    return len(probe.prompts) * lens_cost(probe, unit, options)


def _prompts(inputs: Inputs) -> list[str]:
    prompts = inputs.found.prompts(LENS, *SIDES)
    if not prompts:
        raise NotPossible("there is no prompt whose layers both models could be read on")
    return prompts


def lens_shift_reads(plan: Plan, unit: Unit, options: ResidualStreamOptions) -> Iterable[Read]:
    own = [Read(LENS, unit, required=False) for unit in sides_and_prompts(plan)]
    return [*own, *of_controls(plan, "residual_stream", CONTROL_LENS)]


def both_lenses(inputs: Inputs, unit: Unit, options: ResidualStreamOptions) -> LensShift:
    """Set the layers of both models beside those of controls.

    Raises:
        NotPossible: there is no prompt whose layers both models could be read on.
    """
    prompts, found = _prompts(inputs), inputs.found
    base, tuned = (LensCurves.of(found.some(LENS, LogitLens, [Unit(side, p) for p in prompts])) for side in SIDES)
    origin = inputs.pair.provenance("logit_lens_shift", {})
    return lens_shift(base, tuned, list(found.each(CONTROL_LENS, LensCurves)), provenance=origin)


def lens_shift_cost(probe: Probe, unit: Unit, options: ResidualStreamOptions) -> float:
    return TEST_SECONDS * (1 + probe.n_layers(unit, options.layers))


# the parts of every model, a unit each
def parts(inputs: Inputs, unit: Unit, options: ResidualStreamOptions) -> ModelParts:
    """Split the logits of the response's tokens, each against the token that the base finds most probable beside it.

    Raises:
        NotPossible: there is no prompt whose layers both models could be read on, or the parts of the pair's own
            models cannot be told apart.
    """
    view = view_of(inputs.model)
    provenance = view.provenance("logit_parts", {"max_tokens": options.max_tokens})
    known = set(inputs.pair.shared_tokens[0].tolist())

    def splits() -> Iterable[tuple[str, Any]]:
        for prompt in _prompts(inputs):
            base, own = inputs.found.one(LENS, LogitLens, Unit("base", prompt)), inputs.prompt_of(prompt)
            text = read(view, own, _shared(inputs, prompt), max_tokens=options.max_tokens,
                        max_new_tokens=MAX_NEW_TOKENS, prepend_bos=None)  # fmt: skip
            try:
                against = _against(inputs, unit, own, text, base, known)
            except InputError as error:  # of this prompt in every model: the tokens are the base's choices
                dropped[prompt] = str(error)
                continue
            yield prompt, split(view, text, against)

    dropped: dict[str, str] = {}
    try:
        found = ModelParts.of(provenance, splits())
    except InputError as error:
        if unit.control or isinstance(error, NotPossible):
            raise
        raise NotPossible("; ".join([str(error), *dropped.values()][:2])) from None
    if unit.model == "base":
        tell_failures(inputs, "parts of logits", dropped)
    return found


def _against(inputs: Inputs, unit: Unit, prompt: Prompt, text: Text, base: LogitLens, known: set[int]) -> Any:
    """Return the tokens that a text's are held against, in the unit's own ids.

    Raises:
        InputError: there is none that both models have, or a token of the text is not the other's.
    """
    if unit.model != "tuned":
        return rivals(base.choices, text.said, known)
    said = translated(inputs.pair, prompt, tuple(text.said.tolist()), source=1)
    found = rivals(base.choices, torch.tensor(said), known)
    return torch.tensor(translated(inputs.pair, prompt, tuple(found.tolist()), source=0))


def parts_cost(probe: Probe, unit: Unit, options: ResidualStreamOptions) -> float:
    n_out = min(probe.n_response, options.max_tokens)
    through = probe.sizes.n_layers * 2 * n_out * probe.sizes.n_heads * probe.sizes.d_head * probe.sizes.d_model
    return len(probe.prompts) * (probe.read(probe.n_prompt + n_out) + 2 * through / probe.rate)


def parts_shift_reads(plan: Plan, unit: Unit, options: ResidualStreamOptions) -> Iterable[Read]:
    own = [Read(PARTS, Unit(side)) for side in SIDES]
    return [*own, *of_controls(plan, "residual_stream", PARTS)]


def both_parts(inputs: Inputs, unit: Unit, options: ResidualStreamOptions) -> PartsShift:
    """Set the parts of both models beside those of controls."""
    base, tuned = (inputs.found.one(PARTS, ModelParts, Unit(side)) for side in SIDES)
    controls = [one for one in inputs.found.each(PARTS, ModelParts) if one.provenance.control is not None]
    origin = inputs.pair.provenance(PARTS_SHIFT, {"against": "the base's choice, else its runner-up"})
    return parts_shift(base, tuned, controls, provenance=origin)


def parts_shift_cost(probe: Probe, unit: Unit, options: ResidualStreamOptions) -> float:
    return TEST_SECONDS * probe.sizes.n_layers * (1 + probe.sizes.n_heads)


_COMMON: Any = {"options": ResidualStreamOptions}
_MODEL: Any = _COMMON | {"needs": frozenset({"model", "pair", "prompts"}), "units": no_units, "kept": none_kept}
_PAIR: Any = _COMMON | {"needs": frozenset({"pair"}), "units": one_unit}
STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    Step(
        name=LENS,
        title="logit lens",
        result=LogitLens,
        units=sides_and_prompts,
        work=lens,
        cost=lens_cost,
        reads=lens_reads,
        needs=frozenset({"model", "pair", "prompt"}),
        keys=("layers", "max_tokens"),
        block=lens_block,
        **_COMMON,
    ),
    Step(
        name=CONTROL_LENS,
        title="logit lens of controls",
        result=LensCurves,
        work=control_lens,
        cost=control_lens_cost,
        reads=control_reads,
        keys=("layers", "max_tokens"),
        **_MODEL,
    ),
    Step(
        name=LENS_SHIFT,
        title="logit lens beside controls",
        result=LensShift,
        work=both_lenses,
        cost=lens_shift_cost,
        reads=lens_shift_reads,
        **_PAIR,
    ),
    Step(
        name=PARTS,
        title="parts of logits",
        result=ModelParts,
        work=parts,
        cost=parts_cost,
        reads=control_reads,
        keys=("max_tokens",),
        **_MODEL,
    ),
    Step(
        name=PARTS_SHIFT,
        title="parts of logits beside controls",
        result=PartsShift,
        work=both_parts,
        cost=parts_shift_cost,
        reads=parts_shift_reads,
        **_PAIR,
    ),
)
_SHIFT_COLUMNS = {
    "base": "in the base, mean over prompts",
    "tuned": "in the tuned model",
    "difference": "tuned - base",
    "low": "limits of the difference over prompts",
    "high": "as low",
    "control_low": "limits within which one more control's difference lies; missing with fewer than 19 of a kind",
    "control_high": "as control_low",
}
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "logit_lens",
        "a model, a response token and a layer; the number of layers stands for the model's own output",
        {
            "layer": "whose entering stream goes to the unembedding",
            "kl": "KL(own output || this layer's distribution), nats",
            "rank": "of the token in the layer's distribution",
            "prob": "its probability there",
            "top": "the layer's most probable token",
            "committed": "first layer from which the most probable token is that of the output, and stays it",
        },
        of=(LENS,),
        build=of_prompts(LENS, LogitLens),
    ),
    TableDoc(
        "logit_lens_shift",
        "a measure and a layer; the layer of commitment has none",
        {"measure": "kl, prob (as in logit_lens) or committed", **_SHIFT_COLUMNS},
        of=(LENS_SHIFT,),
        build=of_one(LENS_SHIFT, LensShift),
    ),
    TableDoc(
        "direct_logit_attribution",
        "a part of the model, and what it adds to a response token's logit less that of another token",
        {
            "part": "embed, pos_embed, head, mlp or bias",
            "layer": "the layer; missing for embeddings and biases",
            "head_index": "the attention head; missing for other parts",
            **_SHIFT_COLUMNS,
            "p": "of the difference over prompts",
            "beyond": "whether the difference lies outside the controls' band",
            "moved": "beyond, and p_adjusted at most 0.05",
        },
        of=(PARTS_SHIFT,),
        build=of_one(PARTS_SHIFT, PartsShift),
    ),
)
