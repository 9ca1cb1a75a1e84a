"""What a response loses when no attention reaches its instruction: a causal test of "it is conditioned on it".

    K[m] = log p(y_m | Z_m) - log p(y_m | Z_m, attention to T cut)        nats, Z_m = prompt and the response before m

T are the instruction's tokens. To cut is to set the attention scores of queries towards keys in T to -inf before
softmax, in a window of layers. `cut="response"`: queries from the prompt's last token on, which predicts y_1; "after":
also every prompt token behind one of T, so that nothing of T comes through others (see `cuts`). K > 0: the token needs
the instruction; exactly 0 where nothing is cut. The response is forced, by default the model's own greedy one.

- Token 0 is the sink of many heads: it is never cut, also where the instruction begins with it; then rows with
  `first=True` cut it too, and beside them the draws.
- Beside K stands `random_drop`: as many other tokens of the prompt cut, seeded draws, never token 0; NaN where the
  prompt has fewer.
- K is a log-probability: a token that was unlikely anyway can lose a lot. So `summary` has the median beside the mean.
- Windows do not add up to all layers: what is cut in one is read again in another.
- A model whose attention scores cannot be written (their hook is missing or does not act) is refused. Writing the
  pattern in their place would serve no other family: where scores cannot be written, no pattern can.

Memory: `max_bytes` of logits and one layer's scores at a time, one row at least.

Reference: attention knock-out of Geva et al., EMNLP 2023, arXiv 2304.14767; its cut and controls here are lensdiff's.
"""

from collections.abc import Sequence
from typing import Any, overload

from lensdiff.analyses.knock_out.cuts import CUTS, chosen_windows
from lensdiff.analyses.knock_out.defaults import DRAWS
from lensdiff.analyses.knock_out.passes import MAX_BYTES, Plan, drops, text_of
from lensdiff.analyses.knock_out.result import KnockOut
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView
from lensdiff.models.asked import Asked, Given
from lensdiff.models.given import one_model
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, encode, generate, token_strings
from lensdiff.results import InputError, Results


@overload
def knock_out(
    model: Model,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    cut: str = ...,
    layers: Sequence[int] | str | None = ...,
    draws: int = ...,
    seed: int = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    max_bytes: int = ...,
    progress: bool | None = ...,
) -> KnockOut: ...
@overload
def knock_out(
    model: Model,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    cut: str = ...,
    layers: Sequence[int] | str | None = ...,
    draws: int = ...,
    seed: int = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    max_bytes: int = ...,
    progress: bool | None = ...,
) -> Results[KnockOut]: ...
def knock_out(
    model: Model,
    prompt: Any,  # what the overloads do not name is refused in words
    response: Any = None,
    *,
    cut: str = "response",
    layers: Sequence[int] | str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    max_bytes: int = MAX_BYTES,
    progress: bool | None = None,
) -> KnockOut | Results[KnockOut]:
    """Return what each response token loses when attention to its instruction is cut; of a list of prompts `Results`.

    Args:
        model: one model; for a pair `pair.compare(knock_out, ...)`.
        prompt: with its instruction marked, or a list of such (one that fails is warned of and the rest go on).
        response: the text that is forced (prompt + " " + response, both stripped), a `Response` with its token ids, or
            None for the model's own greedy response. With a list of prompts, a list.
        cut: "response" or "after".
        layers: None cuts in all layers, a list in that window of consecutive ones; "windows" in one window of about a
            sixth of the layers after the other.
        draws: of as many other prompt tokens, which are cut in the instruction's place; 0 for none.
        seed: of the draws, which are the same in all models for a prompt.
        max_new_tokens: of the own response.
        prepend_bos: None for the checkpoint's own habit.
        template: "raw", or "chat": as the chat template writes the prompts.
        max_bytes: of logits and of one layer's attention scores at a time, one row at least.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: an option that does not exist, layers that the model does not have or with gaps, attention scores
            that cannot be written; of one prompt (or of all in a list): it marks no instruction, or cannot be tokenised
            (see `encode`).
    """
    view = one_model(model, "knock_out")
    asked = Asked.of(prompt, response, template=template, model=model)
    if cut not in CUTS:
        raise InputError(f"cut={cut!r} is none of {', '.join(CUTS)}")
    for name, value, least in (("draws", draws, 0), ("max_new_tokens", max_new_tokens, 1), ("max_bytes", max_bytes, 1)):
        if value < least:
            raise InputError(f"{name}={value} given, expected at least {least}")
    plan = Plan((cut,), chosen_windows(layers, view.n_layers), first=True, draws=draws)
    options = {"cut": cut, "layers": layers if layers is None or isinstance(layers, str) else list(layers)}
    options |= {"draws": draws, "max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos}

    def one(prompt: Prompt, given: Given) -> KnockOut:
        said = (
            generate(view, prompt, max_new_tokens=max_new_tokens, prepend_bos=prepend_bos) if given is None else given
        )
        return _of_prompt(view, prompt, said, plan, options, seed, max_bytes)

    return asked.results(asked.each(one, "cutting attention", progress))


def _of_prompt(
    view: ModelView,
    prompt: Prompt,
    response: str | Response,
    plan: Plan,
    options: dict[str, Any],
    seed: int,
    max_bytes: int,
) -> KnockOut:
    encoded = encode(view, prompt, response, prepend_bos=options["prepend_bos"])
    text = text_of(view, prompt, encoded, seed)
    (found,) = drops(view, [text], plan, max_bytes=max_bytes)
    return KnockOut(
        view.provenance("knock_out", options | {"bos": encoded.bos}, seed),
        prompt_id=prompt.id,
        prompt=prompt.stripped,
        response=response.text if isinstance(response, Response) else response.strip(),
        response_kind=encoded.response_kind,
        merged=encoded.merged,
        out_tokens=token_strings(view, encoded.response_ids),
        n_instruction=len(text.instruction),
        n_others=len(text.others),
        conditions=found.conditions,
        log_prob=found.log_prob,
        drop=found.drop,
        random_drop=found.random_drop,
        end=encoded.end,
    )
