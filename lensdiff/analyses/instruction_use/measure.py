"""How far a response depends on the instruction: its log-probability with the instruction, less that without it.

    use = mean over response tokens of [ log p(y_m | x, y_<m) - log p(y_m | x', y_<m) ]        nats per token

x is the prompt and x' the same prompt with another instruction (`by="swap"`, the mean over several donors) or with
none (`by="deletion"`); see `other_instructions`. Positive: the response is likelier under its own instruction. The
response y is forced: in a pair both models read the same tokens, the base's own greedy response, the tuned model's and
the prompt's reference where it has one (or the texts that are given), so that its length or style explains no
difference. 0 where the instruction changes nothing.

- Swapped, the text stays one that instructs; deleted, it becomes a text of another kind, which may be unlikely for
  reasons of its own. Where deletion leaves nothing, x' is the BOS alone; without a BOS the use is NaN, counted in
  `n_nothing_left`.
- Donors of the same kind ask for nearly the same, and the use is then small: give `kinds`.
- An own response that fills the context is cut to what fits after the longest of the other prompts too.
- Responses of fewer than `min_tokens` tokens (by default empty ones and those of one token) are left out and counted.

Every difference is tuned - base, paired over prompts (t, or sign flips where all prompts differ by the same). Its
interval and p describe the prompts, not the tuning: beside them stand the differences control - base on the same
forced text. The mean over texts takes the prompts that have all of them but a reference, which not
every prompt has.

Memory: logits of 256 MB at a time (of one response at least); one control at a time is made, read and let go of.
The measure is lensdiff's own; the paper's is `Attribution.instruction_score`.
"""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace

import torch

from lensdiff.analyses.instruction_use.defaults import DRAWS
from lensdiff.analyses.instruction_use.other_instructions import deleted, swapped
from lensdiff.analyses.instruction_use.result import MEAN, InstructionUse
from lensdiff.analyses.instruction_use.rows import GIVEN, Run, read_model, read_pair
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.spans import shorten
from lensdiff.models import Model, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.given import check_controls, is_pair, one_model
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS
from lensdiff.results import InputError, Provenance
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_counts, check_seed, n_of
from lensdiff.stats.samples import check_level

BY = ("swap", "deletion")
MIN_TOKENS = 2
Text = str | Response
Given = Text | Sequence[Text] | Mapping[str, Sequence[Text | None]]


def instruction_use(
    model: Model | ModelPair,
    prompts: Prompt | str | Sequence[Prompt | str],
    response: Given | None = None,
    *,
    by: str = "swap",
    draws: int = DRAWS,
    controls: Iterable[Model] = (),
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    min_tokens: int = MIN_TOKENS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    level: float = 0.95,
    progress: bool | None = None,
) -> InstructionUse:
    """Return how far responses depend on the instructions, in one model, or in both of a pair beside controls.

    Args:
        model: one model, or a pair.
        prompts: with their instruction marked; a list, of which a failing prompt is warned of and the rest go on, or
            one prompt, which has no donors for a swap.
        response: None for the models' own greedy responses (of a pair both, each forced on both) and the prompts'
            references where they have one; a text, joined to the prompt as prompt + " " + response; or a `Response`.
            For a list of prompts a list of as many, or for several texts a mapping of their names to such lists, in
            which None stands for no such text of a prompt.
        by: "swap" (with the instructions of other prompts) or "deletion".
        draws: donors whose instructions are averaged; all of them where there are fewer.
        controls: of a pair: `pair.control(kind, seed)`, or models with the base's tokenizer.
        kinds: what each prompt asks for; donors are then of another kind. By default the prompts' own `kind` where all
            have one; without any, another instruction will do.
        seed: of the donors, which are the same for all models and responses.
        min_tokens: shorter responses are left out; 1 takes all but the empty ones.
        max_new_tokens: of the own responses.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the chat template (of a pair the tuned model's, for both) writes the prompts.
        level: of the intervals over prompts.
        progress: show for a list how many of the models have read the responses; None shows it on a terminal.

    Raises:
        InputError: an option that does not exist, no prompt, unequal numbers of prompts, responses or kinds, an id that
            comes twice, controls of a single model; of one prompt (or of all in a list): no instruction is marked,
            there is no donor, the two models do not read a text as the same tokens, or it cannot be tokenised.
    """
    if not is_pair(model):
        one_model(model, "instruction_use", or_pair=True)
    check_controls(controls, "instruction_use")
    asked = Asked.of(prompts, template=template, model=model)
    check_seed(seed)
    check_level(level)
    _check(by, {"draws": draws, "min_tokens": min_tokens, "max_new_tokens": max_new_tokens})
    kinds = _kinds(asked.prompts, kinds)
    given = None if response is None else _texts(asked, response)
    if not isinstance(model, ModelPair) and not (isinstance(controls, Sequence) and not controls):
        raise InputError("controls stand beside a pair, and one model was given: a control is a model of its own")
    options = {"by": by, "draws": draws, "kinds": None if kinds is None else list(kinds), "min_tokens": min_tokens}
    options |= {"max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos, "level": level}
    others = _others(asked, by, kinds, draws=draws, seed=seed)
    n_models = (
        (len(SIDES) if isinstance(model, ModelPair) else 1) + len(controls) if isinstance(controls, Sized) else None
    )
    with asked.bar("reading responses", progress, n_models) as advance:
        run = Run(asked, min_tokens, max_new_tokens, prepend_bos, others, advance)
        if isinstance(model, ModelPair):
            texts, beside = read_pair(run, model, given, controls)
            provenance = replace(model.provenance("instruction_use", options, seed), controls=beside)
            models = (*SIDES, *(control.name for control in beside))
        else:
            texts = read_model(run, view_of(model), given)
            provenance = view_of(model).provenance("instruction_use", options, seed)
            models = (view_of(model).info.id,)
    asked.settle()
    return asked.stamped(_result(run, provenance, by, models, texts, level))


def _others(
    asked: Asked, by: str, kinds: Sequence[str] | None, *, draws: int, seed: int
) -> dict[str, Sequence[Prompt | None]]:
    """Return by id the prompts that each is compared with."""
    found: dict[str, Sequence[Prompt | None]] = {}
    for place, prompt in enumerate(asked.prompts):
        if prompt.id in asked.errors:
            continue
        with asked.guard(prompt):
            swap = by == "swap"
            found[prompt.id] = (
                swapped(asked.prompts, place, kinds=kinds, draws=draws, seed=seed) if swap else [deleted(prompt)]
            )
    return found


def _result(
    run: Run, provenance: Provenance, by: str, models: tuple[str, ...], texts: tuple[str, ...], level: float
) -> InstructionUse:
    """Return the rows in order: prompts as given, then texts, then models."""
    places = {prompt.id: i for i, prompt in enumerate(run.asked.prompts)}
    rows = [row for row in run.rows if row.prompt_id not in run.asked.errors]
    rows.sort(key=lambda row: (places[row.prompt_id], texts.index(row.text), row.model))
    return InstructionUse(
        provenance,
        by,
        models,
        texts,
        prompt_id=tuple(row.prompt_id for row in rows),
        text=tuple(row.text for row in rows),
        model=torch.tensor([row.model for row in rows], dtype=torch.int64),
        n_out=torch.tensor([row.n_out for row in rows], dtype=torch.int64),
        n_draws=torch.tensor([row.n_draws for row in rows], dtype=torch.int64),
        log_prob=torch.tensor([row.log_prob for row in rows], dtype=torch.float64),
        log_prob_without=torch.tensor([row.log_prob_without for row in rows], dtype=torch.float64),
        n_left_out=run.left_out,
        failures=run.asked.failures,
        level=level,
    )


def _kinds(prompts: Sequence[Prompt], given: Sequence[str] | None) -> Sequence[str] | None:
    if given is None:
        own = [prompt.kind for prompt in prompts]
        return own if all(own) else None
    if isinstance(given, str) or len(given) != len(prompts):
        raise InputError(f"{n_of(len(prompts), 'prompt')} given with kinds={given!r}, expected a list of as many")
    return given


def _texts(asked: Asked, responses: object) -> dict[str, dict[str, str | Response]]:
    """Return the responses that are given by the text's name and the prompt's id."""
    if asked.single or not isinstance(responses, Mapping):
        found = _given(asked, responses)
        if any(prompt.id not in found for prompt in asked.going()):
            raise InputError("a response is None, expected a text or a Response for every prompt")
        return {GIVEN: found}
    if not responses or not all(isinstance(name, str) and name not in ("", MEAN) for name in responses):
        raise InputError(f"texts are named {shorten(list(responses))}, expected names other than {MEAN!r}")
    return {name: _given(asked, texts) for name, texts in responses.items()}


def _given(asked: Asked, responses: object) -> dict[str, str | Response]:
    both = zip(asked.prompts, asked.given(responses), strict=True)
    return {prompt.id: response for prompt, response in both if response is not None}


def _check(by: str, numbers: dict[str, int]) -> None:
    if by not in BY:
        raise InputError(f"by={by!r} is none of {', '.join(BY)}")
    check_counts(**numbers)
