"""Where each attention head looks: the first token, the instruction, the context, the rest; and how widely.

With A[q,k] the attention of query q to key k after softmax (each row sums to 1, keys after the query get 0):

    sink share   mean over queries q > 0 of A[q,0]                            in [0, 1]
    entropy      mean over queries q > 0 of - sum_k A[q,k] log2 A[q,k]        bits, in [0, log2(number of keys)]
    part share   mean over response queries q of sum over k in the part of A[q,k]

Queries are prompt and response tokens, not a BOS. The first key (BOS, or the first token where there is none) takes
most of many heads' attention whatever it says. Part shares therefore keep it apart: the response's attention to
instruction, context, rest, a chat template's tokens and first key adds up to 1 where the spans do not overlap; a token
of both counts in both.

A part share that cannot be had is NaN: without a response, of a part that the prompt does not mark, of the template in
a raw prompt.

Memory: 4 bytes * layers * heads * pos^2 for kept patterns (120 MB for SmolLM2-135M at 334 tokens); without them a few
layers at a time. Ignored: what the attended values carry; much attention to a small value moves little.

Reference: ours; Wu et al., NAACL 2024, doi 10.18653/v1/2024.naacl-long.130, read heads from their weights alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from lensdiff.analyses.attention.defaults import SINK
from lensdiff.defaults import RAW
from lensdiff.inputs import Prompt
from lensdiff.models import Model, ModelView
from lensdiff.models.asked import Asked
from lensdiff.models.given import one_model
from lensdiff.models.layers import chosen_indices
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import Encoded, encode, token_strings
from lensdiff.results import InputError, Result, Results
from lensdiff.results.tidy import tidy

Queries = Bool[Tensor, " query_pos"] | slice
Sink = Literal["apart", "counted"]
MEASURES = ("sink_share", "entropy", "instruction_share", "context_share", "rest_share", "template_share")
TOLD = ("sink_share", "entropy", "instruction_share", "context_share", "template_share")  # in the table


def sink_share(
    pattern: Float[Tensor, "head_index query_pos key_pos"], queries: Queries
) -> Float[Tensor, " head_index"]:
    """Return the chosen queries' mean attention to the first key, in [0, 1]; query 0 has no other key to choose."""
    return pattern[:, queries, 0].double().mean(dim=-1)


def attention_entropy(
    pattern: Float[Tensor, "head_index query_pos key_pos"], queries: Queries
) -> Float[Tensor, " head_index"]:
    """Return the chosen queries' mean of - sum_k A[q,k] log2 A[q,k], in bits; 0 log 0 is 0."""
    p = pattern[:, queries]
    # a third of the time of `torch.special.entr`; where p is 0 so is the product
    nats = -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(dim=-1, dtype=torch.float64)
    return nats.mean(dim=-1) / math.log(2)


def part_shares(
    pattern: Float[Tensor, "head_index query_pos key_pos"],
    queries: Queries,
    parts: Bool[Tensor, "part key_pos"],
) -> Float[Tensor, "part head_index"]:
    """Return the chosen queries' mean attention to each part's keys, in [0, 1]; NaN without a query."""
    mean = pattern[:, queries].mean(dim=-2, dtype=torch.float64)
    return einsum(mean, parts.double(), "head key, part key -> part head")


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Result):
    """Every head's attention over one text; see the module for the shares.

    Attributes:
        tokens: special tokens, prompt and response as text, one per position.
        n_special, n_prompt: how many of them are special tokens (BOS), and how many are the prompt.
        layers: the layers that were read, counted from 0.
        parts: which keys count as instruction, as context, as the rest and as the template's (axis `part`).
        patterns: the attention itself, or without any query and key where it was not kept.
        prompt_id: of the prompt.
        sink_share, entropy, instruction_share, context_share, rest_share, template_share: of each head; NaN where
            there is none.
    """

    prompt_id: str
    tokens: tuple[str, ...]
    n_special: int
    n_prompt: int
    layers: tuple[int, ...]
    parts: Bool[Tensor, "part pos"]
    sink_share: Float[Tensor, "layer head_index"]
    entropy: Float[Tensor, "layer head_index"]
    instruction_share: Float[Tensor, "layer head_index"]
    context_share: Float[Tensor, "layer head_index"]
    rest_share: Float[Tensor, "layer head_index"]
    template_share: Float[Tensor, "layer head_index"]
    patterns: Float[Tensor, "layer head_index query_pos key_pos"]

    def told(self) -> list[str]:
        """Return means over heads, in bits and shares."""
        means = ((name, float(getattr(self, name).nanmean())) for name in TOLD)
        return ["means over heads: " + ", ".join(f"{name} {mean:.3g}" for name, mean in means if mean == mean)]

    def to_df(self) -> pd.DataFrame:
        """Return a row per head.

        Columns: prompt_id, layer, head_index, sink_share, entropy (bits), instruction_share, context_share,
        template_share (NaN where there is no such part).
        """
        axes = {"layer": self.layers, "head_index": range(self.sink_share.shape[1])}
        frame = tidy(axes, {name: getattr(self, name) for name in TOLD})
        frame.insert(0, "prompt_id", self.prompt_id)
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k heads with which the response looks most at the instruction.

        Without that share (see the module) the k heads that look least at the first token.
        """
        table = self.to_df().drop(columns=["prompt_id", "template_share"])
        if self.instruction_share.isnan().any():
            return table.nsmallest(k, "sink_share").reset_index(drop=True)
        return table.nlargest(k, "instruction_share").reset_index(drop=True)


@overload
def attention(
    model: Model,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    layers: Sequence[int] | None = ...,
    sink: Sink = ...,
    keep_patterns: bool = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> AttentionPatterns: ...
@overload
def attention(
    model: Model,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    layers: Sequence[int] | None = ...,
    sink: Sink = ...,
    keep_patterns: bool = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> Results[AttentionPatterns]: ...
def attention(
    model: Model,
    prompt: Any,  # here and below: what the overloads do not name is refused in words
    response: Any = None,
    *,
    layers: Sequence[int] | None = None,
    sink: str = SINK,
    keep_patterns: bool = True,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    progress: bool | None = None,
) -> AttentionPatterns | Results[AttentionPatterns]:
    """Return how every head attends over a prompt and its response; a list of prompts gives `Results`.

    Args:
        model: one model; for a pair `pair.compare(attention, ...)`.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on).
        response: what follows the prompt, as a text (prompt + " " + response, both stripped) or with the token ids it
            was generated with; None for the prompt alone. With a list of prompts, a list of as many.
        layers: which layers to read, counted from 0; None for all.
        sink: "apart" takes the first key out of instruction, context and rest; "counted" leaves it where it lies.
        keep_patterns: keep the attention itself, which views and `attention_shift` need.
        prepend_bos: None for the checkpoint's own habit; True or False to force it.
        template: "raw", or "chat": as the chat template writes the prompts.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: a layer does not exist or comes twice, `sink` is no such option, lists that are empty or of
            different lengths, an id that comes twice; of one prompt (or of all in a list): it is a single token, or
            prompt and response cannot be tokenised (see `encode`).
    """
    view = one_model(model, "attention")
    if sink not in get_args(Sink):
        raise InputError(f"sink={sink!r} is none of {', '.join(get_args(Sink))}")
    chosen = chosen_indices(layers, range(view.n_layers), "layers")
    asked = Asked.of(prompt, response, template=template, model=model)

    def one(item: Prompt, given: str | Response | None) -> AttentionPatterns:
        return _attend(view, item, given, chosen, sink, keep_patterns, prepend_bos)

    return asked.results(asked.each(one, "reading attention", progress))


def _attend(
    view: ModelView,
    prompt: Prompt,
    response: str | Response | None,
    layers: tuple[int, ...],
    sink: str,
    keep_patterns: bool,
    prepend_bos: bool | None,
) -> AttentionPatterns:
    encoded = encode(view, prompt, response, prepend_bos=prepend_bos)
    if len(encoded.ids) < 2:
        raise InputError(f"the prompt {prompt.stripped!r} is a single token, which can attend only to itself")
    readers, responding = slice(max(1, encoded.n_special), None), slice(encoded.n_special + encoded.n_prompt, None)
    parts = _parts_of(view, prompt, encoded, sink)
    device = torch.device("cpu") if view.device.type == "mps" else view.device  # sums are in float64, which mps lacks
    there = parts.to(device)
    marked = there.any(dim=1, keepdim=True)
    size = len(encoded.ids) if keep_patterns else 0
    kept, shares = torch.empty(len(layers), view.n_heads, size, size), []
    for i, raw in enumerate(view.forward.patterns(torch.tensor(encoded.ids), layers)):
        pattern = raw.float().to(device)
        in_parts = torch.where(marked, part_shares(pattern, responding, there), torch.nan)
        shares.append(torch.stack([sink_share(pattern, readers), attention_entropy(pattern, readers), *in_parts]))
        if keep_patterns:  # as they come: those of all layers may be more than a device holds
            kept[i] = pattern
    options = {
        "response": encoded.response_kind,
        "merged_at_response": encoded.merged,
        "layers": list(layers),
        "sink": sink,
        "keep_patterns": keep_patterns,
        "prepend_bos": prepend_bos,
        "bos": encoded.bos,
    }
    return AttentionPatterns(
        view.provenance("attention", options),
        prompt.id,
        token_strings(view, encoded.ids),
        encoded.n_special,
        encoded.n_prompt,
        layers,
        parts,
        **dict(zip(MEASURES, torch.stack(shares, dim=1).cpu(), strict=True)),
        patterns=kept,
    )


def _parts_of(view: ModelView, prompt: Prompt, encoded: Encoded, sink: str) -> Bool[Tensor, "part pos"]:
    """Return which keys are instruction, context, the rest and the template's, a BOS that it wrote included."""
    pieces = view.tokenizer.convert_ids_to_tokens(list(encoded.prompt_ids))
    of_prompt = slice(encoded.n_special, encoded.n_special + encoded.n_prompt)
    parts = torch.zeros(4, len(encoded.ids), dtype=torch.bool)
    parts[0, of_prompt] = prompt.mask("instruction", encoded.offsets, pieces=pieces)
    parts[1, of_prompt] = prompt.mask("context", encoded.offsets, pieces=pieces)
    parts[3, of_prompt] = prompt.mask("template", encoded.offsets)
    parts[3, encoded.n_added : encoded.n_special] = prompt.rendering is not None
    parts[2] = ~(parts[0] | parts[1] | parts[3])
    if sink == "apart":
        parts[:, 0] = False
    return parts
