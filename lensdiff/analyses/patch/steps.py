"""The steps that exchange activations: a sweep of the first prompts, the heads whose verbs rose, and controls."""

from collections.abc import Iterable, Sequence
from typing import Any

from lensdiff.analyses.heads import HeadOptions
from lensdiff.analyses.heads.head_word_pairs import HeadWordPairs
from lensdiff.analyses.heads.verb_counts import verb_rises
from lensdiff.analyses.patch import PatchOptions
from lensdiff.analyses.patch.defaults import COMPONENTS, DRAWS
from lensdiff.analyses.patch.measure import control_patch, patch_sites
from lensdiff.analyses.patch.result import ControlPatch, Patched
from lensdiff.analyses.patch.set_choice import risen_heads
from lensdiff.analyses.patch.set_result import SetPatch, no_set
from lensdiff.analyses.patch.sets import control_set, patch_set
from lensdiff.analyses.patch.sites import ALL, Site, sweep_sites
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import view_of
from lensdiff.models.aligned_text import GROUPS
from lensdiff.models.response import Response
from lensdiff.results import InputError
from lensdiff.steps import responses
from lensdiff.steps.beside import of_controls
from lensdiff.steps.found import Found
from lensdiff.steps.inputs import Inputs
from lensdiff.steps.plan import Plan, layer_units
from lensdiff.steps.probe import Probe
from lensdiff.steps.step import NotPossible, Read, Step, no_cost, no_units, none_kept, one_unit
from lensdiff.steps.tables import TableDoc, of_one
from lensdiff.steps.unit import SIDES, Unit
from lensdiff.steps.validity import VALIDITY, VALIDITY_TABLE
from lensdiff.steps.validity import of_unit as validity_of

OF_PROMPT, OF_CONTROL, ALL_OF_IT = "patch_prompt", "patch_control", "patch"
SET_PAIR, SET_CONTROL, SET = "patch_set_pair", "patch_set_control", "patch_set"
PAIRS = "heads"
ROW = 0.5  # of a pass: a row starts at the layer that it patches, and rows of a layer share a pass
SET_PASSES = 4  # of heads that are patched together: the two models, and all rows at once either way


# the sweep, a unit per prompt
def units(plan: Plan, options: PatchOptions) -> list[Unit]:
    return [Unit(prompt=prompt) for prompt in _first(plan, options)]


def _first(plan: Plan, options: PatchOptions) -> list[str]:
    return list(plan.prompts)[: options.max_prompts]


def prompt_reads(plan: Plan, unit: Unit, options: PatchOptions) -> Iterable[Read]:
    assert unit.prompt is not None
    return responses.of_prompt(unit.prompt)


def sweep(inputs: Inputs, unit: Unit, options: PatchOptions) -> Patched:
    """Patch heads and MLPs, and the stream by groups of positions, both ways, on the tuned model's response.

    Raises:
        InputError: that response is empty.
    """
    prompt, said = inputs.prompt, _said(inputs, [inputs.prompt], options)
    if not said:
        raise InputError(f"the tuned model answers prompt {prompt.id!r} with nothing: there is no text to read")
    how: Any = {"method": options.method, "rerun": options.rerun, "seed": inputs.seed}
    return patch_sites(inputs.pair, prompt, said[prompt.id], _sites(inputs, options), **how)


def _sites(inputs: Inputs, options: PatchOptions) -> tuple[Site, ...]:
    sizes, layers = view_of(inputs.pair.base).weights.sizes, options.layers
    groups = _groups([inputs.prompt])
    return (*sweep_sites(sizes, COMPONENTS, layers, (ALL,)), *sweep_sites(sizes, ("resid",), layers, groups))


def _groups(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """Return the groups of positions that prompts have: raw ones have nothing of a template."""
    return GROUPS if any(prompt.rendering for prompt in prompts) else tuple(g for g in GROUPS if g != "template")


def _said(inputs: Inputs, prompts: Sequence[Prompt], options: PatchOptions) -> dict[str, str | Response]:
    """Return the tuned model's response to each prompt that it does not answer with nothing."""
    found = responses.own_texts(inputs, prompts, "tuned", options.max_tokens)
    both = zip(prompts, found, strict=True)
    return {prompt.id: said for prompt, said in both if not isinstance(said, str) or said.strip()}


def sweep_cost(probe: Probe, unit: Unit, options: PatchOptions) -> float:
    return (1 if unit.control else len(SIDES)) * _rows_cost(probe, _n_rows(probe, options), options)


def _n_rows(probe: Probe, options: PatchOptions) -> int:
    layers = probe.sizes.n_layers if options.layers is None else len(options.layers)
    n = len(_groups(probe.prompts.values()))
    return layers * (probe.sizes.n_heads + 1 + n) + (n if options.layers is None else 0)


def _rows_cost(probe: Probe, rows: int, options: PatchOptions) -> float:
    if options.method == "estimate":
        rows = min(rows, 2 * options.rerun) + 3  # with the other heads, and a pass forward and back
    n = probe.n_prompt + min(probe.n_response, options.max_tokens)
    return 2 * probe.read(n, passes=1) + ROW * probe.read(rows * n, passes=probe.sizes.n_layers)


# the sweep of a control
def control_reads(plan: Plan, unit: Unit, options: PatchOptions) -> Iterable[Read]:
    own = [Read(OF_PROMPT, one, required=False) for one in units(plan, options)]
    said = [read for prompt in _first(plan, options) for read in responses.of_prompt(prompt)]
    return [*validity_of(plan, unit), *own, *(Read(read.step, read.unit, required=False) for read in said)]


def sweep_control(inputs: Inputs, unit: Unit, options: PatchOptions) -> ControlPatch:
    """Put a control's activations into the base, on the rows and the prompts of the pair.

    Raises:
        NotPossible: nothing of the pair is there.
    """
    pair = _together(inputs.found)
    prompts = [inputs.prompt_of(name) for name in pair.prompt_id]
    return control_patch(inputs.pair, inputs.model, prompts, list(_said(inputs, prompts, options).values()), pair)


def _together(found: Found) -> Patched:
    parts = list(found.each(OF_PROMPT, Patched))
    if not parts:
        raise NotPossible("no prompt could be patched")
    return Patched.together(parts)


def control_cost(probe: Probe, unit: Unit, options: PatchOptions) -> float:
    return min(options.max_prompts, len(probe.prompts)) * sweep_cost(probe, unit, options)


# prompts and controls together
def all_reads(plan: Plan, unit: Unit, options: PatchOptions) -> Iterable[Read]:
    own = [Read(OF_PROMPT, one, required=False) for one in units(plan, options)]
    return [*own, *of_controls(plan, "patch", OF_CONTROL)]


def all_of_it(inputs: Inputs, unit: Unit, options: PatchOptions) -> Patched:
    """Set the effects on all prompts beside those of controls."""
    return _together(inputs.found).with_controls(list(inputs.found.each(OF_CONTROL, ControlPatch)))


# the heads whose verbs rose most, where the word pairs were read; of both models alone, so that controls can follow
def set_units(plan: Plan, options: PatchOptions) -> list[Unit]:
    return one_unit(plan, options) if "heads" in plan.controls else []


def set_reads(plan: Plan, unit: Unit, options: PatchOptions) -> Iterable[Read]:
    said = [read for prompt in _first(plan, options) for read in responses.of_prompt(prompt)]
    layers = plan.options_of(HeadOptions).layers
    own = [Read(PAIRS, one) for side in SIDES for one in layer_units(plan, side, layers)]
    return [*own, *(Read(read.step, read.unit, required=False) for read in said)]


def patch_heads(inputs: Inputs, unit: Unit, options: PatchOptions) -> SetPatch:
    """Patch the heads whose instruction verbs rose most, all together; nothing where they rose in none.

    Raises:
        NotPossible: no prompt was answered.
    """
    view = view_of(inputs.pair.base)
    base, tuned = (inputs.found.of_model(PAIRS, HeadWordPairs, side) for side in SIDES)
    heads = risen_heads(verb_rises(base, tuned), view.n_layers * view.n_heads, options.set_size)
    if not heads:
        return no_set(inputs.pair.provenance("patch_set", {}, inputs.seed))
    answered = inputs.found.prompts(responses.RESPONSES_STEP, *SIDES)
    said = _said(inputs, [inputs.prompt_of(name) for name in answered], options)
    if not said:
        raise NotPossible("no prompt was answered by both models")
    prompts = [inputs.prompt_of(name) for name in said]
    return patch_set(inputs.pair, prompts, list(said.values()), heads=heads, seed=inputs.seed, progress=False)


def set_cost(probe: Probe, unit: Unit, options: PatchOptions) -> float:
    rows, n = (1 if unit.control else len(SIDES) * (1 + DRAWS)), probe.n_prompt + probe.n_response
    return min(options.max_prompts, len(probe.prompts)) * probe.read(rows * n, passes=SET_PASSES)


def set_control_reads(plan: Plan, unit: Unit, options: PatchOptions) -> Iterable[Read]:
    said = [read for prompt in _first(plan, options) for read in responses.of_prompt(prompt)]
    return [
        *validity_of(plan, unit),
        Read(SET_PAIR),
        *(Read(read.step, read.unit, required=False) for read in said),
    ]


def set_control(inputs: Inputs, unit: Unit, options: PatchOptions) -> SetPatch:
    """Put a control's activations of the same heads into the base."""
    pair = inputs.found.one(SET_PAIR, SetPatch)
    if not pair.heads:
        return no_set(view_of(inputs.model).provenance("patch_set", {}))
    prompts = [inputs.prompt_of(name) for name in pair.prompt_id]
    return control_set(inputs.pair, inputs.model, prompts, list(_said(inputs, prompts, options).values()), pair)


def both_reads(plan: Plan, unit: Unit, options: PatchOptions) -> Iterable[Read]:
    return [Read(SET_PAIR), *of_controls(plan, "patch", SET_CONTROL)]


def set_beside(inputs: Inputs, unit: Unit, options: PatchOptions) -> SetPatch:
    """Set the heads' effect beside that of controls."""
    return inputs.found.one(SET_PAIR, SetPatch).with_controls(list(inputs.found.each(SET_CONTROL, SetPatch)))


COMMON: Any = {"options": PatchOptions}
SWEEP_KEYS = ("layers", "max_tokens", "method", "rerun")
PROMPTED: Any = frozenset({"pair", "prompts", "seed"})
STEPS: tuple[Step[Any, Any], ...] = (
    responses.RESPONSES,
    VALIDITY,
    Step(OF_PROMPT, "patches", result=Patched, units=units, work=sweep, cost=sweep_cost, reads=prompt_reads,
         needs=frozenset({"pair", "prompt", "seed"}), keys=SWEEP_KEYS, kept=none_kept, **COMMON),
    Step(OF_CONTROL, "patches of controls", result=ControlPatch, units=no_units, work=sweep_control, cost=control_cost,
         reads=control_reads, needs=frozenset({"pair", "prompts", "model"}), keys=("max_tokens",), kept=none_kept,
         **COMMON),
    Step(ALL_OF_IT, "patches beside controls", result=Patched, units=one_unit, work=all_of_it, cost=no_cost,
         reads=all_reads, **COMMON),
    Step(SET_PAIR, "heads patched together", result=SetPatch, units=no_units, work=patch_heads, cost=set_cost,
         reads=set_reads, needs=PROMPTED, keys=("max_tokens", "set_size"), kept=none_kept, **COMMON),
    Step(SET_CONTROL, "heads of controls patched together", result=SetPatch, units=no_units, work=set_control,
         cost=set_cost, reads=set_control_reads, needs=frozenset({"pair", "prompts", "model"}), keys=("max_tokens",),
         kept=none_kept, **COMMON),
    Step(SET, "heads patched together beside controls", result=SetPatch, units=set_units, work=set_beside, cost=no_cost,
         reads=both_reads, **COMMON),
)  # fmt: skip
NUMBERS = {
    "into": "the model that is patched; the other one gives",
    "clean": "mean log-probability of a response token in the patched model left alone, nats",
    "patched": "the same with the patch",
    "donor": "the same in the model that gives",
    "effect": "patched - clean",
    "share": "effect / (donor - clean); missing where that is about 0",
    "control_low": "limits within which one more control's effect lies; missing with fewer than 19, and into tuned",
    "control_high": "as control_low",
}
TABLES: tuple[TableDoc[Any], ...] = (
    responses.RESPONSES_TABLE,
    VALIDITY_TABLE,
    TableDoc(
        "patch",
        "a prompt, a component at some positions, and a direction; effects of parts do not add up to the whole",
        {
            **NUMBERS,
            "component": "head (z), mlp (its output) or resid (the stream that enters a layer, or leaves the last)",
            "at": "the positions: all, or a group of them",
            "estimate": "gradient times difference, the effect to first order; missing where none was asked for",
            "other_effect": "of a random other head of the layer",
        },
        of=(ALL_OF_IT,),
        build=of_one(ALL_OF_IT, Patched),
    ),
    TableDoc(
        "patch_set",
        "a prompt and a direction: the heads whose instruction verbs rose most, patched all together",
        {
            **NUMBERS,
            "n_heads": "heads of the set",
            "random_low": "limits within which one more set of as many random other heads lies",
            "random_high": "as random_low",
        },
        of=(SET,),
        build=of_one(SET, SetPatch),
    ),
)
