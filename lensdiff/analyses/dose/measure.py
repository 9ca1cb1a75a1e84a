"""What a dose of the change does: weights between base and tuned, whole or by group, and beyond both.

    theta(a) = theta_b + a (theta_t - theta_b)   for the weights of a group, theta_b for all others

a = 0 is the base, a = 1 of "all" the tuned model, a < 0 turns the change around, a > 1 exaggerates it. Groups: "all";
"layer 3" (all of a layer, its norms and biases too); "attention" (W_Q, W_K, W_V and W_O of all layers), "mlp" (W_in,
W_gate and W_out), one kind of matrix by its name ("W_out"); "embedding" (W_E, W_U and learned positions); "head 3.5"
(W_Q and W_O of a head) and "kv 3.2" (W_K and W_V of a key-value head); "not NAME", everything but a group. Norm gains,
biases, experts and routers have no group of their own: they are in "all", in their "layer", and in each "not" of a
group without them. "logits" doses no weights: z_b + a (z_t - z_b), for comparison.

Measured on the same forced texts, both models' own responses (a mean is over a response's tokens, then over texts):

    base_response_log_prob, tuned_response_log_prob   of each model's own response, nats per token
    kl_to_base, kl_to_tuned                           KL(dosed || base) and KL(dosed || tuned), nats per token
    instruction_use                                   log-probability less that without the instruction (deleted, the
                                                      cheaper of `instruction_use`'s two ways: one more reading a text)

all over the tokens that both models have. An effect is a measure less the base's, paired over prompts. W_out at 1 is
the headline, the causal side of "the feed-forward values turned": what their change does alone, beside the base with
the W_out of each control (a meaningless change of the same size). Effects of groups do not add up to the whole: what
one does depends on what the others are. A share of the whole is not given where the whole is about 0.

Both models are read, neither is written: doses are written into a copy of the base (see `lensdiff.models.dosing`).

Memory: a third model; of each text both models' log-probabilities, [out_pos, d_vocab], as many prompts at a time as fit
into `max_bytes`. Cost: a pass over all texts, with and without the instruction, per
group and amount (groups that change the same weights once), and one over the tuned responses per control.
Reference: the logits' dose is decoding-time tuning, Liu et al., COLM 2024; weights between two models: Wortsman et
al., CVPR 2022; the measures and the reading by group are lensdiff's own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lensdiff.analyses.dose.defaults import AMOUNTS
from lensdiff.analyses.dose.reading import (
    GIVEN,
    MEASURES,
    Forced,
    forced,
    log_probs_of,
    logit_dose,
    read_ends,
    read_model,
)
from lensdiff.analyses.dose.result import HEADLINE, LOGITS, WHOLE, ControlDose, Dose
from lensdiff.analyses.instruction_use.other_instructions import deleted
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.change import SharedTokens
from lensdiff.models.dosing import DosedModel, dosed_model
from lensdiff.models.given import check_controls, check_pair
from lensdiff.models.inside.parts import Weight
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, encode, own_responses
from lensdiff.models.weight_groups import Group, Part
from lensdiff.results import InputError
from lensdiff.results.diff import SIDES
from lensdiff.results.numbers import check_numbers

Text = str | Response
Texts = Mapping[str, Mapping[str, Text]]  # responses by the text's name and the prompt's id
Amounts = Sequence[float | int] | Mapping[str, Sequence[float | int]]


def dose(
    pair: ModelPair,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: Any = None,
    *,
    amounts: Amounts = AMOUNTS,
    groups: Sequence[str] = (WHOLE,),
    controls: Iterable[Model] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    level: float = 0.95,
    max_bytes: int = 2**30,
    progress: bool | None = None,
) -> Dose:
    """Return what doses of the change do to the responses of both models: curves by group, and W_out beside controls.

    Args:
        pair: both models, of `load_pair`.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on); with its instruction
            marked, else its instruction use is NaN.
        response: None for both models' own greedy responses; a text, joined to the prompt as prompt + " " + response,
            or a `Response`, in place of both; or a mapping of "base" and "tuned" to one each. For a list of prompts a
            list of as many.
        amounts: of the change; for all groups, or for each group by its name.
        groups: names of groups, see the module.
        controls: `pair.control(kind, seed)`, or models of the base's shape: their W_out is put into the base. Groups
            must then hold "W_out", at amount 1.
        max_new_tokens: of the own responses.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the chat template of the tuned model writes the prompts.
        level: of the intervals over prompts.
        max_bytes: of both models' log-probabilities that are held at a time.
        progress: show for a list how many of the doses were read; None shows it on a terminal.

    Raises:
        InputError: a group that does not exist (with those that do), no or doubled groups, an amount that is no finite
            number, unequal numbers of prompts and responses, an id that comes twice; the pair keeps one model, its
            models are in two wrappers or differ in more than weights; controls without "W_out" at 1, in half precision
            or of another shape; of one prompt (or of all in a list): the two models do not read a text as the same
            tokens, it cannot be tokenised, or there is nothing to read.
    """
    check_pair(pair, "dose")
    check_controls(controls, "dose")
    asked = Asked.of(prompt, template=template, model=pair)
    wanted = _points(groups, amounts)
    given = None if response is None else _given(asked, response)
    dosed = dosed_model(pair)
    found = {group: Group() if group == LOGITS else dosed.group(group) for group in groups}
    controls = list(controls)
    if controls and (HEADLINE, 1.0) not in wanted:
        raise InputError("controls stand beside the group 'W_out' at amount 1, which is not among groups and amounts")
    for control in controls:
        _check_control(dosed, view_of(control))
    run = _Run(pair, dosed, asked, prepend_bos, max_bytes)
    if given is None:
        given = {side: _own(view_of(getattr(pair, side)), asked, max_new_tokens, prepend_bos) for side in SIDES}
    texts = run.read(given)
    points = [_Point(group, amount, found[group] & dosed.changed) for group, amount in wanted]
    values, ends = run.measured(points, texts, progress)
    asked.settle()
    options = {"amounts": _recorded(amounts), "groups": list(groups), "max_new_tokens": max_new_tokens}
    options |= {"prepend_bos": prepend_bos, "level": level}
    whole = dosed.energy(dosed.changed)
    shares = [math.nan if p.group == LOGITS or not whole else dosed.energy(p.parts) / whole for p in points]
    names = tuple(dict.fromkeys(text.text for text in texts)) or (GIVEN,)
    ids = [prompt.id for prompt in asked.going()]
    n_out = {(text.prompt.id, text.text): len(text.places) for text in texts}
    result = Dose(
        pair.provenance("dose", options),
        tuple(ids),
        tuple(sorted(names)),
        tuple(point.group for point in points),
        torch.tensor([point.amount for point in points], dtype=torch.float64),
        values,
        ends,
        torch.tensor(shares, dtype=torch.float64),
        torch.tensor([[n_out.get((i, name), 0) for name in sorted(names)] for i in ids]).reshape(len(ids), len(names)),
        torch.zeros(0, len(ids), dtype=torch.float64),
        asked.failures,
        level,
    )
    return asked.stamped(result.with_controls([run.control(control, texts) for control in controls]))


def control_dose(
    pair: ModelPair,
    control: Model,
    prompts: Sequence[Prompt],
    responses: Sequence[Text | None],
    *,
    prepend_bos: bool | None = None,
) -> ControlDose:
    """Return what a control's W_out in the base makes of the tuned model's responses (None where there is none).

    `Dose.with_controls` sets it beside the pair. A prompt that fails is left out.

    Raises:
        InputError: as `dose`.
    """
    asked, dosed = Asked.of(list(prompts)), dosed_model(pair)
    _check_control(dosed, view_of(control))
    run = _Run(pair, dosed, asked, prepend_bos, 0)
    said = {p.id: r for p, r in zip(asked.prompts, responses, strict=True) if r is not None}
    return run.control(control, run.read({SIDES[1]: said}))


@dataclass(frozen=True)
class _Point:
    group: str
    amount: float
    parts: Group  # that change


@dataclass
class _Run:
    """The texts of one call, and what reads them."""

    pair: ModelPair
    dosed: DosedModel
    asked: Asked
    prepend_bos: bool | None
    max_bytes: int

    @property
    def rows(self) -> SharedTokens | None:
        return self.pair.change().rows

    def read(self, texts: Texts) -> list[Forced]:
        """Return what both models read, prompt by prompt; a prompt without any text fails."""
        found = []
        for prompt in self.asked.going():
            with self.asked.guard(prompt):
                said = [(name, responses[prompt.id]) for name, responses in texts.items() if prompt.id in responses]
                own = [forced(self.pair, prompt, *text, self.rows, self.prepend_bos) for text in said]
                if not any(own):
                    raise InputError(f"nothing answers prompt {prompt.id!r}: there is no text to read")
                found += [text for text in own if text is not None]
        return found

    def measured(
        self, points: Sequence[_Point], texts: Sequence[Forced], progress: bool | None
    ) -> tuple[Tensor, Tensor]:
        """Return the values of all points and of both ends, [point prompt measure] and [model prompt measure]."""
        different = dict.fromkeys((p.parts, p.amount) for p in points if p.group != LOGITS and p.parts and p.amount)
        chunks = list(self._chunks(texts))
        values, ends = [], []
        with self.asked.bar("dosing", progress, len(chunks) * (len(SIDES) + len(different))) as advance:
            for chunk in chunks:
                found = self._chunk(points, list(different), chunk, advance)
                values.append(found[0])
                ends.append(found[1])
        if not chunks:
            empty = torch.zeros(0, len(MEASURES), dtype=torch.float64)
            return empty.expand(len(points), 0, -1), empty.expand(len(SIDES), 0, -1)
        return torch.cat(values, dim=1), torch.cat(ends, dim=1)

    def _chunk(
        self,
        points: Sequence[_Point],
        different: Sequence[tuple[Group, float]],
        texts: Sequence[Forced],
        advance: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        prompts = list(dict.fromkeys(text.prompt.id for text in texts))
        views, both = (self.dosed.view, view_of(self.pair.tuned)), any(point.group == LOGITS for point in points)
        base = read_ends(views[0], texts, 0, self.rows, both=both)
        # where nothing changed the tuned model is the base, to the last bit
        same = not self.dosed.changed and self.rows is None
        ends = base, base if same else read_ends(views[1], texts, 1, self.rows, both=both)
        own = [read_model(views[0], texts, ends, self.rows)]
        own.append(own[0] if same else read_model(views[1], texts, ends, self.rows, side=1))
        found: dict[tuple[Group, float], Tensor] = {}
        of_ends = [scores.by_prompt(prompts) for scores in own]
        advance(len(SIDES))
        for parts, amount in different:
            with self.dosed.at(parts, amount) as view:
                found[parts, amount] = read_model(view, texts, ends, self.rows).by_prompt(prompts)
            advance(1)
        rows = []
        for point in points:
            if point.group == LOGITS:
                rows.append(logit_dose(texts, ends, point.amount).by_prompt(prompts))
            else:
                rows.append(found.get((point.parts, point.amount), of_ends[0]))
        return torch.stack(rows), torch.stack(of_ends)

    def _chunks(self, texts: Sequence[Forced]) -> Iterator[list[Forced]]:
        """Yield the texts of as many prompts as fit into memory, of one at least."""
        n_shared = len(self.pair.shared_tokens[0]) if self.rows is not None else self.dosed.view.d_vocab
        chunk: list[Forced] = []
        size = 0
        for prompt in dict.fromkeys(text.prompt.id for text in texts):
            own = [text for text in texts if text.prompt.id == prompt]
            more = sum(2 * 4 * len(text.places) * n_shared for text in own)
            if chunk and size + more > self.max_bytes:
                yield chunk
                chunk, size = [], 0
            chunk, size = chunk + own, size + more
        if chunk:
            yield chunk

    def control(self, control: Model, texts: Sequence[Forced]) -> ControlDose:
        """Return what a control's W_out makes of the tuned model's responses, or of the given ones."""
        view = view_of(control)
        said = [text for text in texts if text.text in (SIDES[1], GIVEN)]
        prompts = {text.prompt.id: i for i, text in enumerate(said)}
        log_probs, values = torch.full((len(said),), torch.nan, dtype=torch.float64), _values(self.dosed, view)
        with self.dosed.holding(values) as made:  # also refuses another shape
            changed = any(not torch.equal(value.to(base), base) for value, base in self._beside(values))
            if changed:
                log_probs = log_probs_of(made, said, self.rows, prompts)
        n_out = torch.tensor([len(text.places) for text in said], dtype=torch.int64)
        provenance = replace(view.provenance("control_dose", {"group": HEADLINE}), control=view.control)
        return ControlDose(provenance, tuple(prompts), n_out, log_probs, changed)

    def _beside(self, values: Mapping[Part, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weights, each beside the base's."""
        return ((value, self.dosed.ends[part].base) for part, value in values.items())


def _values(dosed: DosedModel, control: ModelView) -> dict[Part, Tensor]:
    """Return a control's W_out of every layer that has one."""
    found = {}
    for part in dosed.group(HEADLINE):
        value = control.weights.stored(Weight(part.name, part.layer))
        if value is None:
            raise InputError(f"control {control.info.id} has no W_out in layer {part.layer}, expected one as the base")
        found[part] = value
    return found


def _check_control(dosed: DosedModel, control: ModelView) -> None:
    if dosed.view.dtype.itemsize < torch.float32.itemsize:
        raise InputError(
            f"a control's W_out cannot be put into a model in {str(dosed.view.dtype).removeprefix('torch.')}, whose "
            "rounding takes away a part of the change: load the pair with dtype='float32'"
        )
    if control.n_layers != dosed.view.n_layers or control.d_model != dosed.view.d_model:
        mine, theirs = ((view.n_layers, view.d_model) for view in (dosed.view, control))
        raise InputError(f"control {control.info.id} has layers and d_model {theirs}, expected the base's {mine}")


def _points(groups: Sequence[str], amounts: Amounts) -> list[tuple[str, float]]:
    """Return every group with every amount that is asked of it.

    Raises:
        InputError: no or doubled groups, an amount that is no number or doubled, or none of a group.
    """
    if isinstance(groups, str) or not groups or len(set(groups)) < len(groups):
        raise InputError(f"groups={groups!r} given, expected at least one name of a group, each once")
    if f"not {LOGITS}" in groups:
        raise InputError("there is no group 'not logits': a dose of the logits changes no weights")
    if isinstance(amounts, Mapping) and set(amounts) != set(groups):
        raise InputError(f"amounts are given for {', '.join(amounts)}, expected {', '.join(groups)} as the groups")
    found = []
    for group in groups:
        own = amounts[group] if isinstance(amounts, Mapping) else amounts
        found += [(group, amount) for amount in check_numbers("amounts", own)]
    return found


def _recorded(amounts: Amounts) -> Any:
    if isinstance(amounts, Mapping):
        return {name: [float(a) for a in own] for name, own in amounts.items()}
    return [float(a) for a in amounts]


def _given(asked: Asked, response: Any) -> Texts:
    """Return the responses that are given.

    Raises:
        InputError: they are not as many as the prompts, or a mapping of other names than base and tuned.
    """
    if isinstance(response, Mapping):
        if set(response) != set(SIDES):
            raise InputError(f"responses are given for {', '.join(map(str, response))}, expected base and tuned")
        given = {side: asked.given(response[side]) for side in SIDES}
    else:
        given = {GIVEN: asked.given(response)}
    return {
        name: {p.id: r for p, r in zip(asked.prompts, responses, strict=True) if r is not None}
        for name, responses in given.items()
    }


def _own(view: ModelView, asked: Asked, max_new_tokens: int, bos: bool | None) -> dict[str, Response]:
    """Return a model's own responses, cut to what fits after either form of the prompt in either model."""
    said = own_responses(view, asked, max_new_tokens=max_new_tokens, prepend_bos=bos)
    found = {}
    for prompt in asked.going():
        with asked.guard(prompt):
            forms = [prompt, *([deleted(prompt)] if prompt.instruction else [])]
            longest = max(len(encode(view, form, prepend_bos=bos).ids) for form in forms if form is not None)
            response = said[prompt.id]
            ids = response.token_ids[: max(0, view.n_ctx - longest - 1)]  # one less: the other model may add a BOS
            if ids != response.token_ids:
                response = replace(response, text=str(view.tokenizer.decode(list(ids))), token_ids=ids, end="")
            found[prompt.id] = response
    return found
