"""Direct logit attribution: what the embedding, each head, each MLP and the biases add to a response token's logit.

    logit(y_m)  [ - logit(against_m) ]  =  sum over parts of their contributions           before a soft cap, in logits

with every norm's scale as it is in the pass (`split` has the formulas). Positive: the part speaks for the token.
Against another token it is free of what raises all logits alike, and the only form in which two models are compared:

    against   a text that is one token; None for the logit alone, and in a pair for the token, other than y_m, that the
              base finds most probable: its choice where the models differ there, else the runner-up; both models, and
              controls, are then held against the same token

Direct effects alone: what a part does through later layers is in their contributions, and large ones cancel often.

Reference: nostalgebraist 2020; Elhage et al., a mathematical framework for transformer circuits, 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.attribute.targets import one_token
from lensdiff.analyses.residual_stream.forced import Read, of_side, read
from lensdiff.analyses.residual_stream.lens import output_choices
from lensdiff.analyses.residual_stream.split import Part, Split, split
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.aligned_text import align_text
from lensdiff.models.asked import Asked, Given
from lensdiff.models.forced_text import translated
from lensdiff.models.given import is_pair, one_model
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, token_strings
from lensdiff.results import Diff, InputError, Provenance, Result, Results
from lensdiff.results.diff import SIDES


def rivals(
    choices: Int[Tensor, "out_pos k"], said: Int[Tensor, " out_pos"], known: set[int] | None = None
) -> Int[Tensor, " out_pos"]:
    """Return by position the first of the choices, best first, that is not the token that was said.

    Args:
        known: ids that count; None for all.

    Raises:
        InputError: none of a position's choices counts.
    """
    found = []
    for place, (row, own) in enumerate(zip(choices.tolist(), said.tolist(), strict=True)):
        rest = [token for token in row if token != own and (known is None or token in known)]
        if not rest:
            raise InputError(
                f"none of the base's {len(row)} most probable tokens at response token {place} is another one that "
                "both models have: there is nothing to hold its logit against"
            )
        found.append(rest[0])
    return torch.tensor(found)


def part_columns(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the columns of a table that say what part a row is of: part, layer, head_index."""
    layers, heads = [part.layer for part in parts], [part.head for part in parts]
    return {
        "part": [part.kind for part in parts],
        "layer": pd.array(layers, dtype="Int64"),
        "head_index": pd.array(heads, dtype="Int64"),
    }


@dataclass(frozen=True, eq=False)
class DirectLogitAttribution(Result):
    """What each part adds to the logit of each response token; see the module.

    Attributes:
        prompt_id, prompt, response: the prompt's id and text, and the response's text.
        out_tokens: the response's tokens, as text.
        against: the tokens whose logits are subtracted; none where it is the logit alone.
        parts: kind ("embed", "pos_embed", "head", "mlp", "bias"), layer and number of a head.
        contributions: in logits.
        logit: what they add up to, before a soft cap.
        end: the end token that was said after them; "" where they were cut off, None where nobody knows.
    """

    prompt_id: str
    prompt: str
    response: str
    out_tokens: tuple[str, ...]
    against: tuple[str, ...]
    parts: tuple[tuple[str, int | None, int | None], ...]
    contributions: Float[Tensor, "part out_pos"]
    logit: Float[Tensor, " out_pos"]
    end: str | None = None

    def to_df(self) -> pd.DataFrame:
        """Return a row per response token and part: prompt_id, out_pos, part, layer, head_index, contribution."""
        n_out = len(self.out_tokens)
        frame = pd.DataFrame(part_columns([Part(*part) for part in self.parts] * n_out))
        frame.insert(0, "prompt_id", self.prompt_id)
        frame.insert(1, "out_pos", [place for place in range(n_out) for _ in self.parts])
        frame["contribution"] = self.contributions.T.reshape(-1).numpy()
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k parts that add most, or take most away, on average over the response: part, layer, ..."""
        means = self.contributions.mean(dim=1)
        order = means.abs().argsort(descending=True, stable=True)[:k].tolist()
        frame = pd.DataFrame(part_columns([Part(*self.parts[i]) for i in order]))
        frame["contribution"] = means[order].numpy()
        return frame

    def told(self) -> list[str]:
        """Return the logit, and the parts that add most."""
        rivals = dict.fromkeys(self.against)
        other = repr(next(iter(rivals))) if len(rivals) == 1 else "the base's best other one (see against)"
        what = "logit of the token" + (f" less that of {other}" if rivals else "")
        first = ", ".join(
            f"{Part(*part)} {value:+.3g}"
            for part, value in sorted(
                zip(self.parts, self.contributions.mean(dim=1).tolist(), strict=True), key=lambda item: -abs(item[1])
            )[:4]
        )
        return [f"{what}: mean {float(self.logit.mean()):.3g}", f"most of it: {first}"]


@overload
def direct_logit_attribution(
    model: ModelPair,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    against: str | None = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> Diff[DirectLogitAttribution]: ...
@overload
def direct_logit_attribution(
    model: ModelPair,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    against: str | None = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> Diff[Results[DirectLogitAttribution]]: ...
@overload
def direct_logit_attribution(
    model: Model,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    against: str | None = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> DirectLogitAttribution: ...
@overload
def direct_logit_attribution(
    model: Model,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    against: str | None = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> Results[DirectLogitAttribution]: ...
def direct_logit_attribution(
    model: Any,
    prompt: Any,  # what the overloads do not name is refused in words
    response: Any = None,
    *,
    against: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    progress: bool | None = None,
) -> Any:
    """Return what each part of a model, or of both of a pair, adds to the logits of a response's tokens.

    Args:
        model: one model, or a pair.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on).
        response: a text, joined to the prompt as prompt + " " + response, a `Response`, or None for the model's own
            greedy one (of a pair the tuned model's); a pair reads the same tokens in both. With a list of prompts, a
            list.
        against: a text that is one token, whose logit is subtracted; see the module.
        max_new_tokens: of the own response.
        prepend_bos: None for each checkpoint's own habit.
        template: "raw", or "chat": as the chat template (of a pair the tuned model's, for both) writes the prompts.
        progress: show a progress bar for a list; None shows it on a terminal.

    Returns:
        A result, `Results` of a list; of a pair a `Diff` of two of them.

    Raises:
        InputError: `against` is not one token, a list is not what is expected; of one prompt (or of all in a list):
            the response is empty, a text cannot be tokenised or is not read as the same tokens by both models, or the
            model's parts cannot be told apart.
    """
    if not is_pair(model):
        one_model(model, "direct_logit_attribution", or_pair=True)
    asked = Asked.of(prompt, response, template=template, model=model)
    options = {"max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos}
    if isinstance(model, ModelPair):
        return _of_pair(model, asked, against, options, progress)
    view = view_of(model)
    provenance = view.provenance("direct_logit_attribution", {"against": against, **options})
    rival = None if against is None else one_token(view, against)

    def of_one(one: Prompt, given: Given) -> DirectLogitAttribution:
        text = read(view, one, given, **options)
        other = None if rival is None else torch.full((text.n_out,), rival)
        return _result(provenance, view, text, other, split(view, text, other))

    return asked.results(asked.each(of_one, "splitting logits", progress))


def _of_pair(
    pair: ModelPair, asked: Asked, against: str | None, options: Mapping[str, Any], progress: bool | None
) -> Diff[Any]:
    chosen = {"against": against, **options}
    whole, (base, tuned) = pair.provenance("direct_logit_attribution", chosen), pair.ids
    told = {"base": replace(whole, model=base), "tuned": replace(whole, model=tuned)}

    def of_one(one: Prompt, given: Given) -> tuple[DirectLogitAttribution, DirectLogitAttribution]:
        aligned = align_text(
            pair, one, given, max_new_tokens=options["max_new_tokens"], prepend_bos=options["prepend_bos"]
        )
        found = []
        other = None
        for side in SIDES:
            view, text = view_of(getattr(pair, side)), of_side(aligned, side)
            if against is not None:
                other = torch.full((text.n_out,), one_token(view, against))
            elif side == "base":
                other = rivals(output_choices(view, text), text.said, set(pair.shared_tokens[0].tolist()))
            else:
                assert other is not None
                other = torch.tensor(translated(pair, one, tuple(other.tolist()), source=0))
            found.append(_result(told[side], view, text, other, split(view, text, other)))
        return found[0], found[1]

    found = asked.each(of_one, "splitting logits", progress)
    asked.settle(stacklevel=4)
    going = asked.going()
    sides = [{one.id: asked.stamped(found[one.id][i], one) for one in going} for i in range(len(SIDES))]
    if asked.single:
        (base,), (tuned,) = (list(side.values()) for side in sides)
        return Diff(base, tuned, notice=pair.notice)
    return Diff(*(Results(side, asked.failures) for side in sides), notice=pair.notice)


def _result(
    provenance: Provenance, view: ModelView, text: Read, against: Int[Tensor, " out_pos"] | None, found: Split
) -> DirectLogitAttribution:
    names = () if against is None else token_strings(view, tuple(against.tolist()))
    parts = tuple((part.kind, part.layer, part.head) for part in found.parts)
    return DirectLogitAttribution(
        provenance, **text.labels, against=names, parts=parts, contributions=found.values, logit=found.logit
    )
