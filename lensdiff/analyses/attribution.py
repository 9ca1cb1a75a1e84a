"""Which prompt words drive the response: exact gradient x input, one number per prompt token and response token.

    I[n,m] = < d f(y_m | x, y_1..y_{m-1}) / d E[x_n],  E[x_n] >

f is the target (in the paper the probability of the token), E[x_n] the input embedding. Positive: the token supports
the response token. It is the first-order form of what removing the token would change; `DeletionCheck` says how far
that holds for a map.

One teacher-forced pass over prompt and response. Only prompt tokens get scores; BOS gets none. Memory: see `gradients`.
Raw prompts are used, no chat template. Reference: Wu et al., NAACL 2024, section 4; doi
10.18653/v1/2024.naacl-long.130.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, overload

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from lensdiff.analyses import density as importance
from lensdiff.analyses.deletion import DeletionCheck, deletion_check
from lensdiff.analyses.gradients import cheaper_mode, forward_scores, reverse_scores, target_gradients
from lensdiff.analyses.targets import Target, probability, target_of
from lensdiff.inputs.prompts import Prompt
from lensdiff.models.text import MAX_NEW_TOKENS, Encoded, Response, as_prompt, encode, generate, token_strings
from lensdiff.models.view import Model, ModelView, view_of
from lensdiff.results import InputError, Result

Method = Literal["auto", "forward", "reverse"]
EXACT = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Attribution(Result):
    """The importance of every prompt token for every response token.

    Attributes:
        scores: I[n,m] in units of the target, signed.
        targets: the target of each response token; probabilities: its probability.
        in_offsets: characters (start, end) of each prompt token in the stripped prompt.
        instruction, context: which prompt tokens the prompt's spans cover.
        response_kind: "generated" (the ids as generated) or "text" (tokenised together with the prompt).
        merged: the tokenizer merged prompt and response at their boundary.
        method: "forward" or "reverse", as it was computed.
        deletion: the map's trust number, or None where it was not asked for or there is nothing to delete.
    """

    prompt_id: str
    prompt: str
    response: str
    in_tokens: tuple[str, ...]
    out_tokens: tuple[str, ...]
    in_offsets: tuple[tuple[int, int], ...]
    response_kind: str
    merged: bool
    method: str
    deletion: DeletionCheck | None
    scores: Float[Tensor, "in_pos out_pos"]
    targets: Float[Tensor, " out_pos"]
    probabilities: Float[Tensor, " out_pos"]
    instruction: Bool[Tensor, " in_pos"]
    context: Bool[Tensor, " in_pos"]

    def levels(
        self, *, levels: int = importance.LEVELS, b: int = 0, eps: float = importance.EPS
    ) -> Int[Tensor, "in_pos out_pos"]:
        """Return each response token's scores as levels 0..L, those of at most b as 0 (b: pictures 0, numbers 7)."""
        return importance.sparsify(importance.importance_levels(self.scores, levels=levels, eps=eps), b=b)

    def density(
        self,
        *,
        levels: int = importance.LEVELS,
        b: int = importance.SPARSITY,
        p: float = importance.NORM,
        eps: float = importance.EPS,
    ) -> Float[Tensor, " in_pos"]:
        """Return the importance density a[n] of each prompt token, not normalised over the prompt."""
        found = importance.importance_levels(self.scores, levels=levels, eps=eps)
        return importance.importance_density(found, b=b, p=p, eps=eps)

    def instruction_score(
        self,
        *,
        levels: int = importance.LEVELS,
        b: int = importance.SPARSITY,
        p: float = importance.NORM,
        eps: float = importance.EPS,
        normalise: bool = True,
    ) -> float:
        """Return the paper's score of the instruction: summed normalised density / log2(2 + instruction tokens)."""
        found = self.density(levels=levels, b=b, p=p, eps=eps)
        return importance.instruction_score(found, self.instruction, eps=eps, normalise=normalise)

    def vanished_columns(self, *, b: int = importance.SPARSITY, eps: float = importance.EPS) -> int:
        """Return how many response tokens have importance but no level above b (largest score below about 2e-7)."""
        return importance.vanished_columns(self.scores, b=b, eps=eps)

    def words(self) -> "Attribution":
        """Return the map with the prompt's sub-tokens merged to words (runs without white space), their scores added.

        The sum is again exact: the derivative along all of the word's embeddings together.
        """
        groups = _word_groups(self.prompt, self.in_offsets)
        index = torch.tensor(groups, dtype=torch.int64)
        n_words = int(index.max()) + 1 if len(groups) else 0
        spans: list[tuple[int, int]] = []
        for word in range(n_words):
            inside = [o for o, g in zip(self.in_offsets, groups, strict=True) if g == word]
            spans.append((inside[0][0], inside[-1][1]))
        scores = self.scores.new_zeros(n_words, self.scores.shape[1]).index_add_(0, index, self.scores)

        def any_of(mask: Tensor) -> Tensor:
            return torch.zeros(n_words, dtype=torch.int64).index_add_(0, index, mask.long()) > 0

        return replace(
            self,
            scores=scores,
            in_tokens=tuple(self.prompt[a:b].strip() for a, b in spans),
            in_offsets=tuple(spans),
            instruction=any_of(self.instruction),
            context=any_of(self.context),
        )

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt and response token: prompt_id, in_pos, in_token, out_pos, out_token, score, level."""
        n, m = self.scores.shape
        index = pd.MultiIndex.from_product([range(n), range(m)], names=["in_pos", "out_pos"]).to_frame(index=False)
        return pd.DataFrame(
            {
                "prompt_id": self.prompt_id,
                "in_pos": index["in_pos"],
                "in_token": [self.in_tokens[i] for i in index["in_pos"]],
                "out_pos": index["out_pos"],
                "out_token": [self.out_tokens[i] for i in index["out_pos"]],
                "score": self.scores.flatten().numpy(),
                "level": self.levels().flatten().numpy(),
            }
        )

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k prompt tokens with the highest density: in_pos, in_token, density, instruction."""
        found = self.density()
        order = found.argsort(descending=True, stable=True)[:k]
        return pd.DataFrame(
            {
                "in_pos": order.numpy(),
                "in_token": [self.in_tokens[i] for i in order],
                "density": found[order].numpy(),
                "instruction": self.instruction[order].numpy(),
            }
        )


class Results(list[Attribution]):
    """The results of many prompts, and by prompt id why the others failed."""

    def __init__(self, results: Sequence[Attribution] = (), failures: dict[str, str] | None = None):
        super().__init__(results)
        self.failures = failures or {}


@overload
def attribute(
    model: Model, prompt: Prompt | str, response: str | Response | None = ..., **options: object
) -> Attribution: ...
@overload
def attribute(
    model: Model,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = ...,
    **options: object,
) -> Results: ...
def attribute(  # type: ignore[no-redef]
    model: Model,
    prompt: Prompt | str | Sequence[Prompt | str],
    response: str | Response | Sequence[str | Response | None] | None = None,
    *,
    target: str | Target = "probability",
    method: Method | str = "auto",
    max_new_tokens: int = MAX_NEW_TOKENS,
    retokenise: bool = False,
    prepend_bos: bool | None = None,
    chunk: int | None = None,
    deletion_draws: int = 8,
    progress: bool | None = None,
) -> Attribution | Results:
    """Attribute a response to the prompt's tokens, exactly.

    Args:
        model: a model of `load_model`, or any HookedTransformer or TransformerBridge, in float32 or float64.
        prompt: a prompt, or a list of them (then a list of results; a failing prompt is warned of and the rest go on).
        response: None for the model's own greedy response; a text, joined to the prompt as prompt + " " + response;
            or a `Response` of `generate`. For a list of prompts None or a list of the same length.
        target: "probability", "log_probability", "logit", or a function (logits [out_pos, d_vocab], ids [out_pos]) ->
            [out_pos].
            The contrast of two tokens a and b is `lambda logits, ids: logits[:, a] - logits[:, b]`.
        method: "forward" (a pass per prompt token), "reverse" (a pass per response token) or "auto", the cheaper.
        max_new_tokens: of the own response.
        retokenise: attribute an own response as if it were given as text, as the paper's authors do.
        prepend_bos: None for the tokenizer's own habit.
        chunk: prompt tokens (forward) or response tokens (reverse) computed at once; by default from the free memory.
        deletion_draws: random deletions that the deletion check compares with; 0 leaves the check out.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: an unknown target or method, a model in half precision, an empty response given as text, a prompt
            that does not fit the context.

    Source: method of Wu et al., NAACL 2024, section 4; the split at the unembedding is described in `gradients`.
    """
    view = view_of(model)
    function = target_of(target)
    if method not in ("auto", "forward", "reverse"):
        raise InputError(f"method {method!r} is none of auto, forward, reverse")
    _check_precision(view)
    options = {
        "target": target if isinstance(target, str) else getattr(target, "__name__", "custom"),
        "method": method,
        "max_new_tokens": max_new_tokens,
        "retokenise": retokenise,
        "prepend_bos": prepend_bos,
        "deletion_draws": deletion_draws,
    }

    def one(item: Prompt | str, given: str | Response | None) -> Attribution:
        if given is None:
            given = generate(model, item, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos)
            if retokenise and given.text.strip():
                given = given.text
        return _attribute_one(view, as_prompt(item), given, function, options, chunk=chunk)

    if isinstance(prompt, Prompt | str):
        return one(prompt, cast(str | Response | None, response))
    return _attribute_many(one, list(prompt), response, progress=progress)


def _attribute_many(
    one: Callable[..., Attribution],
    prompts: list[Prompt | str],
    responses: object,
    *,
    progress: bool | None,
) -> Results:
    given = [None] * len(prompts) if responses is None else list(cast(Sequence, responses))
    if isinstance(responses, str | Response) or len(given) != len(prompts):
        raise InputError(f"{len(prompts)} prompts need as many responses, or None for the model's own")
    results = Results()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = get_console().is_terminal if progress is None else progress
    with Progress(*columns, disable=not shown, transient=True) as bar:
        task = bar.add_task("attributing", total=len(prompts))
        for number, (item, response) in enumerate(zip(prompts, given, strict=True)):
            name = (item.id if isinstance(item, Prompt) else "") or str(number)
            try:
                found = one(item, response)
                results.append(found if found.prompt_id else replace(found, prompt_id=name))
            except (InputError, RuntimeError) as error:
                results.failures[name] = str(error)
                warnings.warn(f"prompt {name!r} failed: {error}", stacklevel=4)
            bar.advance(task)
    return results


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
        view.provenance("attribute", options),
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
        hidden = view.unembed_input(tokens[None])[0, outputs]
        probabilities = probability(view.unembed(hidden), ids)
    targets, gradients = target_gradients(view, hidden, ids, target)
    scores = (forward_scores if method == "forward" else reverse_scores)(
        view, tokens, slice(first, first + n), outputs, gradients, chunk=chunk
    )
    return scores.detach(), targets, probabilities


def _check_precision(view: ModelView) -> None:
    if view.dtype not in EXACT:
        size = sum(p.numel() for p in view.model.parameters())
        have, need = (size * bits / 8 / 2**30 for bits in (torch.finfo(view.dtype).bits, 32))
        raise InputError(
            f"attribution needs float32, {view.info.id} is {str(view.dtype).removeprefix('torch.')}: "
            f"load_model(..., dtype='float32') takes {need:.1f} GiB instead of {have:.1f} GiB"
        )


def _word_groups(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    # a token begins a new word if white space stands between its first visible character and the one before
    groups: list[int] = []
    end = 0
    for start, stop in offsets:
        visible = start + len(text[start:stop]) - len(text[start:stop].lstrip())
        new = not groups or (bool(text[end:visible].strip() == "") and visible > end) or text[start:stop].strip() == ""
        groups.append((groups[-1] + 1 if groups else 0) if new else groups[-1])
        end = max(end, stop)
    return groups
