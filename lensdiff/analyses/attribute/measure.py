"""Attribute a response to the prompt's tokens: the tokens, the mode, the passes, the map and its deletion check.

One teacher-forced pass over prompt and response. Only prompt tokens get scores; BOS gets none. Memory: see `gradients`.

Precision: float32 scores are within about 2e-4 of the prompt's largest score, float64 scores within 1e-9, also where a
probability is near 1 (see `targets`); the provenance's options say which. A model in half precision is read in float32,
a block at a time (`inside.widened`): its scores are those of the float32 model of the same weights, on the response
that it gives in half precision. Measured against float64: 6e-6 on
SmolLM2-135M (torch's own float32 softmax puts up to 2e-4 there); on the shipped toy pair's 62 prompts 2e-5 (base) and
1.3e-4 (tuned) on the tuned model's responses, with every level as in float64. It grew to 1.3e-3 where the tuned toy
model reads 250 tokens of the base's text: 12 levels of 170,607 are off there, by one, all at the edge of two levels.

Reference: Wu et al., NAACL 2024, section 4; doi 10.18653/v1/2024.naacl-long.130.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.attribute.attribution import Attribution
from lensdiff.analyses.attribute.choices import Choices, choices_in_pair, name_of
from lensdiff.analyses.attribute.defaults import BASELINE, DELETION_DRAWS, METHOD, NODES, PATH, TARGET
from lensdiff.analyses.attribute.deletion import deletion_check
from lensdiff.analyses.attribute.gradients import NoForwardMode, cheaper_mode, final_at
from lensdiff.analyses.attribute.paths import (
    INCOMPLETE,
    PathName,
    Text,
    check_path,
    integrated_scores,
    scores_at,
)
from lensdiff.analyses.attribute.targets import Contrast, Target, TargetName, probability, target_of
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import MARKED, Prompt
from lensdiff.models import Model, ModelView
from lensdiff.models.asked import Asked
from lensdiff.models.given import one_model
from lensdiff.models.loading.devices import whole_products
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, Encoded, encode, generate, token_strings
from lensdiff.results import InputError, Results
from lensdiff.results.numbers import check_count, check_counts

Method = Literal["auto", "forward", "reverse"]
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
    target: TargetName | Target | Contrast | Choices = ...,
    path: PathName = ...,
    baseline: str = ...,
    nodes: int = ...,
    method: Method = ...,
    max_new_tokens: int = ...,
    retokenise: bool = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
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
    target: TargetName | Target | Contrast | Choices = ...,
    path: PathName = ...,
    baseline: str = ...,
    nodes: int = ...,
    method: Method = ...,
    max_new_tokens: int = ...,
    retokenise: bool = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    chunk: int | None = ...,
    deletion_draws: int = ...,
    progress: bool | None = ...,
) -> Results[Attribution]: ...
def attribute(
    model: Model,
    prompt: Any,  # here and below: what the overloads do not name is refused in words
    response: Any = None,
    *,
    target: str | Target | Contrast | Choices = TARGET,
    path: str = PATH,
    baseline: str = BASELINE,
    nodes: int = NODES,
    method: str = METHOD,
    max_new_tokens: int = MAX_NEW_TOKENS,
    retokenise: bool = False,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    chunk: int | None = None,
    deletion_draws: int = DELETION_DRAWS,
    progress: bool | None = None,
) -> Attribution | Results[Attribution]:
    """Attribute a response to the prompt's tokens, exactly.

    A score is the gradient times the input, score[n, m] = < d target(y_m) / d E[x_n], E[x_n] >, E[x_n] the embedding of
    prompt token n: positive where it supports response token m, in units of the target.

    Args:
        model: a model of `load_model`, or any HookedTransformer or TransformerBridge; one in half precision is read
            in float32, a block at a time.
        prompt: a prompt, or a list of them (then `Results`; one that fails is warned of and the rest go on).
        response: None for the model's own greedy response; a text, joined to the prompt as prompt + " " + response;
            or a `Response` of `generate`. For a list of prompts None, or a list of as many (None is one's own again).
        target: what is differentiated: "probability", "log_probability", "logit", `contrast(" yes", " no")`, or a
            function (logits [out_pos, d_vocab], ids [out_pos]) -> [out_pos]; through `pair.compare` also "choice", the
            tuned model's next token against the base's.
        path: where: "point" (at the prompt, as in the paper) or "integrated" (along a path to it, see `paths`).
        baseline: where the path begins: "zero", "mean", or "token:TEXT" with exactly one token.
        nodes: of the path, each of which costs what "point" does.
        method: how: "forward" (a pass per prompt token), "reverse" (a pass per response token) or "auto", the cheaper;
            where a model cannot be run in forward mode "auto" takes the other and the provenance's options say why.
        max_new_tokens: of the own response.
        retokenise: attribute an own response as if it were given as text, as the paper's authors do.
        prepend_bos: None for the tokenizer's own habit.
        template: "raw", or "chat": as the chat template writes the prompts.
        chunk: prompt tokens (forward) or response tokens (reverse) computed at once; by default from the free memory.
        deletion_draws: random deletions that the deletion check compares with; 0 leaves the check out.
        progress: show a progress bar for a list; None shows it on a terminal.

    Returns:
        `Attribution` of one prompt (`top`, `shares`, `density`, `instruction_score`, `to_df`, `show`); `Results`
        of a list.

    Raises:
        InputError: an unknown target, path, baseline or method, a text of a contrast or baseline that is not one token,
            a negative number, lists that are empty or of different lengths, an id that comes twice; of one prompt (or
            of all in a list): an empty response given as text, a prompt that does not fit the context,
            `method="forward"` where a model cannot be run in it.

    Source: method of Wu et al., NAACL 2024, section 4; the split at the unembedding is described in `gradients`.
    """
    view = one_model(model, "attribute")
    function = None if isinstance(target, Choices) else target_of(target, view)
    check_path(path, baseline, nodes)
    if method not in get_args(Method):
        raise InputError(f"method {method!r} is none of {', '.join(get_args(Method))}")
    check_count("deletion_draws", deletion_draws, least=0)
    check_counts(max_new_tokens=max_new_tokens, **({} if chunk is None else {"chunk": chunk}))
    options = {
        "target": target if isinstance(target, str) else getattr(target, "__name__", "custom"),
        **({"path": path, "baseline": baseline, "nodes": nodes} if path != PATH else {}),
        "method": method,
        "max_new_tokens": max_new_tokens,
        "retokenise": retokenise,
        "prepend_bos": prepend_bos,
        "deletion_draws": deletion_draws,
        "precision": _precision(view),
    }

    asked = Asked.of(prompt, response, template=template, model=model)

    def one(item: Prompt, given: str | Response | None) -> Attribution:
        if isinstance(target, Choices):
            given = target.response(view, item)
        if given is None:
            given = generate(model, item, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
            if retokenise and given.text.strip():
                given = given.text
        own = target.of(view, item) if isinstance(target, Choices) else function
        assert own is not None
        found = _attribute_one(view, item, given, own, options, chunk=chunk)
        if found.completeness is not None and found.completeness > INCOMPLETE:
            warnings.warn(
                f"the integrated gradients of prompt {name_of(item)[:40]!r} add up to what the target changes within "
                f"{found.completeness:.0%}: give more nodes than {nodes}, or another baseline than {baseline!r}",
                stacklevel=2,
            )
        return found

    return asked.results(asked.each(one, "attributing", progress))


# what a target of both models means is found before either is attributed: see `ModelPair.compare`
vars(attribute)["in_pair"] = choices_in_pair


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
    wide = view.widened()
    # a model in half precision was not told of when it was loaded: that products of float32 may be rounded
    with nullcontext() if wide is view else whole_products():
        found, method, options = _scored(wide, encoded, target, options, chunk=chunk)
        deletion, draws = None, options["deletion_draws"]
        if draws and encoded.n_response:
            deletion = deletion_check(wide, encoded, target, found.scores, found.targets, draws=draws)
    pieces = view.tokenizer.convert_ids_to_tokens(list(encoded.prompt_ids))
    masks = {part: prompt.mask(part, encoded.offsets, pieces=pieces) for part in MARKED}
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
        scores=found.scores.cpu(),
        targets=found.targets.cpu(),
        probabilities=found.probabilities.cpu(),
        completeness=found.completeness,
        **masks,
        template=prompt.mask("template", encoded.offsets) if prompt.rendering else None,
        end=encoded.end,
    )


class _Found(NamedTuple):
    scores: Float[Tensor, "in_pos out_pos"]
    targets: Float[Tensor, " out_pos"]
    probabilities: Float[Tensor, " out_pos"]
    completeness: float | None


def _scored(
    view: ModelView, encoded: Encoded, target: Target, options: dict[str, Any], *, chunk: int | None
) -> tuple[_Found, str, dict[str, Any]]:
    """Return the scores, the mode that they were computed in, and the options with what is to be said of it."""
    method = options["method"]
    if method == "auto":
        method = cheaper_mode(view, encoded.n_prompt, encoded.n_response)
    try:
        found = _scores(view, encoded, target, method, chunk, options)
    except NoForwardMode as error:
        if options["method"] != "auto":
            raise
        method, options = "reverse", options | {"forward_mode": str(error)}
        found = _scores(view, encoded, target, method, chunk, options)
    if not bool(torch.isfinite(found.scores).all()):
        raise RuntimeError(
            f"{view.info.id}: a score is not finite; attribute it in float64 to see whether its range is exceeded"
        )
    return found, method, options


def _scores(
    view: ModelView, encoded: Encoded, target: Target, method: str, chunk: int | None, options: dict[str, Any]
) -> _Found:
    first, n, m = encoded.n_special, encoded.n_prompt, encoded.n_response
    if not m:
        empty = torch.zeros(0, dtype=view.dtype)
        return _Found(torch.zeros(n, 0, dtype=view.dtype), empty, empty, None)
    # the last response token is only predicted, never read
    tokens = torch.tensor(encoded.ids[:-1], device=view.device)
    said = torch.tensor(encoded.response_ids, device=view.device)
    text = Text(tokens, said, slice(first, first + n), slice(first + n - 1, first + n - 1 + m))
    embedded = view.forward.embed(tokens[None])[0].detach()
    how = {"method": method, "chunk": chunk}
    if "path" not in options:
        at = scores_at(view, text, target, embedded, embedded[text.inputs], **how)
        # a result's tensors share no memory: it could not be saved
        own = at.targets.clone() if target is probability else probability(view.forward.unembed(at.hidden), said)
        return _Found(at.scores, at.targets, own, None)
    logits = view.forward.unembed(final_at(view, tokens, embedded, text.outputs))
    how |= {"baseline": options["baseline"], "nodes": options["nodes"]}
    scores, completeness = integrated_scores(view, text, target, embedded, **how)
    return _Found(scores, target(logits, said), probability(logits, said), completeness)


def _precision(view: ModelView) -> str:
    computed = PRECISION[view.widened().dtype]
    stored = str(view.dtype).removeprefix("torch.")
    return computed if computed.startswith(stored) else f"weights in {stored}, computed in {computed}"
