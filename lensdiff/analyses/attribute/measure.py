"""Attribute a response to the prompt's tokens: the tokens, the mode, the passes, the map and its deletion check.

One teacher-forced pass over prompt and response. Only prompt tokens get scores; BOS gets none. Memory: see `gradients`.
Raw prompts are used, no chat template.

Precision: float32 scores are within about 2e-4 of the prompt's largest score, float64 scores within 1e-9, also where a
probability is near 1 (see `targets`); the provenance's options say which. Measured against float64: 6e-6 on
SmolLM2-135M (torch's own float32 softmax puts up to 2e-4 there); on the shipped toy pair's 62 prompts 2e-5 (base) and
1.3e-4 (tuned) on the tuned model's responses, with every level as in float64. It grew to 1.3e-3 where the tuned toy
model reads 250 tokens of the base's text: 12 levels of 170,607 are off there, by one, all at the edge of two levels.

Reference: Wu et al., NAACL 2024, section 4; doi 10.18653/v1/2024.naacl-long.130.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.defaults import DELETION_DRAWS, METHOD, TARGET
from lensdiff.analyses.attribute.deletion import deletion_check
from lensdiff.analyses.attribute.gradients import (
    NoForwardMode,
    cheaper_mode,
    forward_scores,
    reverse_scores,
    target_gradients,
)
from lensdiff.analyses.attribute.targets import Target, TargetName, probability, target_of
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, view_of
from lensdiff.models.asked import Asked
from lensdiff.models.response import Response
from lensdiff.models.text import MAX_NEW_TOKENS, Encoded, encode, generate, token_strings
from lensdiff.results import InputError, Results

Method = Literal["auto", "forward", "reverse"]
EXACT = (torch.float32, torch.float64)
PRECISION = {
    torch.float32: "float32: scores within about 2e-4 of the prompt's largest",
    torch.float64: "float64: scores within 1e-9 of the prompt's largest",
}


@overload
def attribute(
    model: Model,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    target: TargetName | Target = ...,
    method: Method = ...,
    max_new_tokens: int = ...,
    retokenise: bool = ...,
    prepend_bos: bool | None = ...,
    chunk: int | None = ...,
    deletion_draws: int = ...,
    progress: bool | None = ...,
) -> Attribution: ...
@overload
def attribute(
    model: Model,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    target: TargetName | Target = ...,
    method: Method = ...,
    max_new_tokens: int = ...,
    retokenise: bool = ...,
    prepend_bos: bool | None = ...,
    chunk: int | None = ...,
    deletion_draws: int = ...,
    progress: bool | None = ...,
) -> Results[Attribution]: ...
def attribute(
    model: Model,
    prompt: Any,  # here and below: what the overloads do not name is refused in words
    response: Any = None,
    *,
    target: str | Target = TARGET,
    method: str = METHOD,
    max_new_tokens: int = MAX_NEW_TOKENS,
    retokenise: bool = False,
    prepend_bos: bool | None = None,
    chunk: int | None = None,
    deletion_draws: int = DELETION_DRAWS,
    progress: bool | None = None,
) -> Attribution | Results[Attribution]:
    """Attribute a response to the prompt's tokens, exactly.

    Args:
        model: a model of `load_model`, or any HookedTransformer or TransformerBridge, in float32 or float64.
        prompt: a prompt, or a list of them (then `Results`; one that fails is warned of and the rest go on).
        response: None for the model's own greedy response; a text, joined to the prompt as prompt + " " + response;
            or a `Response` of `generate`. For a list of prompts None, or a list of as many (None is one's own again).
        target: "probability", "log_probability", "logit", or a function (logits [out_pos, d_vocab], ids [out_pos]) ->
            [out_pos].
            The contrast of two tokens a and b is `lambda logits, ids: logits[:, a] - logits[:, b]`.
        method: "forward" (a pass per prompt token), "reverse" (a pass per response token) or "auto", the cheaper; where
            a model cannot be run in forward mode "auto" takes the other and the provenance's options say why.
        max_new_tokens: of the own response.
        retokenise: attribute an own response as if it were given as text, as the paper's authors do.
        prepend_bos: None for the tokenizer's own habit.
        chunk: prompt tokens (forward) or response tokens (reverse) computed at once; by default from the free memory.
        deletion_draws: random deletions that the deletion check compares with; 0 leaves the check out.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: an unknown target or method, a negative number, a model in half precision, lists that are empty or
            of different lengths, an id that comes twice; of one prompt (or of all in a list): an empty response given
            as text, a prompt that does not fit the context, `method="forward"` where a model cannot be run in it.

    Source: method of Wu et al., NAACL 2024, section 4; the split at the unembedding is described in `gradients`.
    """
    view = view_of(model)
    function = target_of(target)
    if method not in get_args(Method):
        raise InputError(f"method {method!r} is none of {', '.join(get_args(Method))}")
    _check_precision(view)
    if deletion_draws < 0 or (chunk is not None and chunk < 1):
        raise InputError(f"deletion_draws={deletion_draws} and chunk={chunk} given, expected at least 0 and at least 1")
    options = {
        "target": target if isinstance(target, str) else getattr(target, "__name__", "custom"),
        "method": method,
        "max_new_tokens": max_new_tokens,
        "retokenise": retokenise,
        "prepend_bos": prepend_bos,
        "deletion_draws": deletion_draws,
        "precision": PRECISION[view.dtype],
    }

    asked = Asked.of(prompt, response)

    def one(item: Prompt, given: str | Response | None) -> Attribution:
        if given is None:
            given = generate(model, item, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
            if retokenise and given.text.strip():
                given = given.text
        return _attribute_one(view, item, given, function, options, chunk=chunk)

    return asked.results(asked.each(one, "attributing", progress))


def _attribute_one(
    view: ModelView,
    prompt: Prompt,
    response: str | Response,
    target: Target,
    options: dict,
    *,
    chunk: int | None,
) -> Attribution:
    encoded = encode(view, prompt, response, prepend_bos=options["prepend_bos"])
    method = options["method"]
    if method == "auto":
        method = cheaper_mode(view, encoded.n_prompt, encoded.n_response)
    try:
        scores, targets, probabilities = _scores(view, encoded, target, method, chunk)
    except NoForwardMode as error:
        if options["method"] != "auto":
            raise
        method, options = "reverse", options | {"forward_mode": str(error)}
        scores, targets, probabilities = _scores(view, encoded, target, method, chunk)
    if not bool(torch.isfinite(scores).all()):
        raise RuntimeError(
            f"{view.info.id}: a score is not finite; attribute it in float64 to see whether its range is exceeded"
        )
    deletion = None
    if options["deletion_draws"] and encoded.n_response:
        deletion = deletion_check(view, encoded, target, scores, draws=options["deletion_draws"])
    pieces = view.tokenizer.convert_ids_to_tokens(list(encoded.prompt_ids))
    masks = {part: prompt.mask(part, encoded.offsets, pieces=pieces) for part in ("instruction", "context")}
    return Attribution(
        view.provenance("attribute", options | {"bos": encoded.bos}),
        prompt_id=prompt.id,
        prompt=prompt.stripped,
        response=response.text if isinstance(response, Response) else response.strip(),
        in_tokens=token_strings(view, encoded.prompt_ids),
        out_tokens=token_strings(view, encoded.response_ids),
        in_offsets=encoded.offsets,
        response_kind=encoded.response_kind,
        merged=encoded.merged,
        method=method,
        deletion=deletion,
        scores=scores.cpu(),
        targets=targets.cpu(),
        probabilities=probabilities.cpu(),
        **masks,
    )


def _scores(
    view: ModelView, encoded: Encoded, target: Target, method: str, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    first, n, m = encoded.n_special, encoded.n_prompt, encoded.n_response
    if not m:
        empty = torch.zeros(0, dtype=view.dtype)
        return torch.zeros(n, 0, dtype=view.dtype), empty, empty
    # the last response token is only predicted, never read
    tokens = torch.tensor(encoded.ids[:-1], device=view.device)
    ids = torch.tensor(encoded.response_ids, device=view.device)
    outputs = slice(first + n - 1, first + n - 1 + m)
    with torch.no_grad():
        hidden = view.forward.final(tokens[None])[0, outputs]
        probabilities = probability(view.forward.unembed(hidden), ids)
    targets, gradients = target_gradients(view, hidden, ids, target)
    inputs = slice(first, first + n)
    if method == "forward":
        scores = forward_scores(view, tokens, inputs, outputs, gradients, chunk=chunk)
    else:
        scores = reverse_scores(view, tokens, inputs, outputs, gradients, chunk=chunk, hidden=hidden)
    return scores.detach(), targets, probabilities


def _check_precision(view: ModelView) -> None:
    if view.dtype not in EXACT:
        size = sum(p.numel() for p in view.model.parameters())
        have, need = (size * bits / 8 / 2**30 for bits in (torch.finfo(view.dtype).bits, 32))
        raise InputError(
            f"attribution needs float32, {view.info.id} is {str(view.dtype).removeprefix('torch.')}: "
            f"load_model(..., dtype='float32') takes {need:.1f} GiB instead of {have:.1f} GiB"
        )
