"""How far tuning moved what the model would say next: both models' next-token distributions over the same forced text.

With P the tuned model's and Q the base's distribution at one response token, M = (P + Q) / 2:

    kl          KL(tuned || base) = sum_v P[v] ln(P[v] / Q[v])           nats, in [0, inf)
    js          sqrt( (KL(P || M) + KL(Q || M)) / 2 ),  log base 2       distance, in [0, 1]
    rank        1 + how many tokens are more probable than the response's token; each model's own
    choice      the most probable token of a model; choice_rank: the tuned model's choice, ranked by the base
    kind        unshifted (choice_rank 1), marginal (2 or 3), shifted (beyond 3)
    agreement   share of its k most probable tokens that each model has among the other's

One teacher-forced pass per model over prompt and response; every response token is predicted from the same tokens
before it. Distributions are over the token strings that both vocabularies have, in float32 or finer; what a model
gives to tokens of its own is left out before normalising, and reported as `outside`. Where the models differ in their
habit of prepending a BOS, each keeps its own.

Memory: logits of one response, [out_pos, d_vocab] in float32, of both models (2 x 59 MB for 300 tokens and 49,152
entries); a pair that keeps one model computes as many prompts at a time as fit into `max_bytes`.

Reference: classes of Lin et al., ICLR 2024 (URIAL), section 2; divergence of Lin, IEEE Trans. Inf. Theory 37, 1991.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lensdiff.analyses.outputs.distributions import js_distance, kl_divergence, ranks, top_k_agreement
from lensdiff.defaults import RAW
from lensdiff.inputs import Prompt
from lensdiff.models import ModelView, view_of
from lensdiff.models.asked import Asked, Given
from lensdiff.models.forced_text import Forced, force_base, force_tuned
from lensdiff.models.given import check_pair
from lensdiff.models.pair import ModelPair
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, Encoded, generate, strings_of
from lensdiff.results import InputError, Result, Results

MARGINAL = 3  # the last rank under the base that is only a marginal shift
KINDS = ("unshifted", "marginal", "shifted")
TOP_K = 10
CHANGED = 50  # vocabulary entries that are kept as those that changed most
ROWS = 32  # response tokens whose distributions are compared at once, in float64


def kind_of(choice_rank: int) -> str:
    """Return the class of a token: "unshifted", "marginal" or "shifted"."""
    return KINDS[0] if choice_rank == 1 else KINDS[1] if choice_rank <= MARGINAL else KINDS[2]


@dataclass(frozen=True, eq=False)
class OutputShift(Result):
    """How the next-token distributions of two models differ over one response; see the module for the measures.

    Axis `model` is base, tuned. Indices point into `words`.

    Attributes:
        prompt_id, prompt, response: the prompt's id and text, and the response's text.
        out_tokens: the response's tokens, as text.
        merged: the tokenizer merged prompt and response at their boundary.
        words: that indices point into.
        response_kind: "generated" (ids as generated) or "text" (tokenised with the prompt).
        n_shared: how many token strings both vocabularies have.
        kl, js, agreement, choice_rank: of each response token.
        rank, probability: of the response's token, under each model.
        outside: the probability that each model gives to tokens which the other does not have.
        likely, likely_probability: each model's most probable tokens, best first, and their probabilities.
        changed, changed_probability: the vocabulary entries whose mean probability over the response moved most, and
            those means under each model.
        end: the end token that was said after the response; "" where it was cut off, None where nobody knows.
    """

    calls = ("changed_tokens()", "top()", "to_df()", "show()")

    prompt_id: str
    prompt: str
    response: str
    response_kind: str
    merged: bool
    n_shared: int
    out_tokens: tuple[str, ...]
    words: tuple[str, ...]
    kl: Float[Tensor, " out_pos"]
    js: Float[Tensor, " out_pos"]
    agreement: Float[Tensor, " out_pos"]
    choice_rank: Int[Tensor, " out_pos"]
    rank: Int[Tensor, "model out_pos"]
    probability: Float[Tensor, "model out_pos"]
    outside: Float[Tensor, "model out_pos"]
    likely: Int[Tensor, "model out_pos k"]
    likely_probability: Float[Tensor, "model out_pos k"]
    changed: Int[Tensor, " word"]
    changed_probability: Float[Tensor, "model word"]
    end: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The class of each response token."""
        return tuple(kind_of(rank) for rank in self.choice_rank.tolist())

    def told(self) -> list[str]:
        """Return the mean divergence, the classes of the tokens, and where the models differ most."""
        if not len(self.out_tokens):
            return ["the response is empty"]
        counts = ", ".join(f"{self.kinds.count(kind)} {kind}" for kind in KINDS)
        row: Any = self.top(1).iloc[0]
        choices = f"the base chooses {row.base_choice!r}, the tuned model {row.tuned_choice!r}"
        lines = [f"KL(tuned || base) {float(self.kl.mean()):.3g} nats per token, JS {float(self.js.mean()):.3g} bits"]
        return [*lines, f"tokens: {counts}", f"largest KL {row.kl:.3g} at {row.token!r}: {choices}"]

    def to_df(self) -> pd.DataFrame:
        """Return a row per response token.

        Columns: prompt_id, out_pos, token, kl, js, base_rank, tuned_rank, base_prob, tuned_prob, kind; and
        base_choice, tuned_choice, choice_rank, agreement.
        """
        choices = [[self.words[i] for i in side[:, 0]] for side in self.likely]
        return pd.DataFrame(
            {
                "prompt_id": self.prompt_id,
                "out_pos": range(len(self.out_tokens)),
                "token": list(self.out_tokens),
                "kl": self.kl.numpy(),
                "js": self.js.numpy(),
                "base_rank": self.rank[0].numpy(),
                "tuned_rank": self.rank[1].numpy(),
                "base_prob": self.probability[0].numpy(),
                "tuned_prob": self.probability[1].numpy(),
                "kind": list(self.kinds),
                "base_choice": choices[0],
                "tuned_choice": choices[1],
                "choice_rank": self.choice_rank.numpy(),
                "agreement": self.agreement.numpy(),
            }
        )

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k response tokens at which the models differ most, by `kl`."""
        columns = ["out_pos", "token", "kl", "base_prob", "tuned_prob", "base_choice", "tuned_choice"]
        return self.to_df().nlargest(k, "kl").reset_index(drop=True).loc[:, columns]

    def changed_tokens(self, k: int = 10) -> pd.DataFrame:
        """Return the k vocabulary entries whose mean probability moved most: token, base, tuned, difference."""
        base, tuned = self.changed_probability[:, :k].numpy()
        words = [self.words[i] for i in self.changed[:k]]
        return pd.DataFrame({"token": words, "base": base, "tuned": tuned, "difference": tuned - base})


@overload
def output_shift(
    pair: ModelPair,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    top_k: int = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    max_bytes: int = ...,
    progress: bool | None = ...,
) -> OutputShift: ...
@overload
def output_shift(
    pair: ModelPair,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    top_k: int = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    max_bytes: int = ...,
    progress: bool | None = ...,
) -> Results[OutputShift]: ...
def output_shift(
    pair: ModelPair,
    prompt: Any,  # what the overloads do not name is refused in words
    response: Any = None,
    *,
    top_k: int = TOP_K,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    max_bytes: int = 2**30,
    progress: bool | None = None,
) -> OutputShift | Results[OutputShift]:
    """Return how far tuning moved the next-token distributions over one forced text; a list of prompts gives `Results`.

    Args:
        pair: both models, of `load_pair`.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on).
        response: the text that is forced on both models: a text (prompt + " " + response, both stripped), a `Response`
            with its token ids, or None for the tuned model's own greedy response. With a list of prompts, a list.
        top_k: how many most probable tokens are kept and compared.
        max_new_tokens: of the tuned model's own response.
        prepend_bos: None for each checkpoint's own habit; True or False to force it on both.
        template: "raw", or "chat": as the chat template of the tuned model writes the prompts.
        max_bytes: of the logits that a pair with keep="one" holds before it changes the model.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: `top_k` is not between 1 and the number of shared tokens, lists that are empty or of different
            lengths, an id that comes twice; of one prompt (or of all in a list): the models do not read a text as the
            same tokens, or it cannot be tokenised (see `encode`).
    """
    check_pair(pair, "output_shift")
    asked = Asked.of(prompt, response, template=template, model=pair)
    n_shared = len(pair.shared_tokens[0])
    if not 1 <= top_k <= n_shared:
        raise InputError(f"top_k={top_k} is not between 1 and the {n_shared} tokens that both models have")
    options = {"top_k": top_k, "max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos}
    found: dict[str, OutputShift] = {}
    waiting = [(p, r) for p, r in zip(asked.prompts, asked.responses, strict=True) if p.id not in asked.errors]
    with asked.bar("comparing outputs", progress, len(waiting)) as advance:
        while waiting:
            n, texts = _tuned(pair, asked, waiting if pair.keep == "one" else waiting[:1], options, max_bytes)
            found |= _beside_base(pair, asked, texts, options)
            del waiting[:n]
            advance(n)
    return asked.results(found)


class _Outputs(NamedTuple):
    log_probs: Float[Tensor, "out_pos shared"]
    outside: Float[Tensor, " out_pos"]


def _tuned(
    pair: ModelPair, asked: Asked, waiting: Sequence[tuple[Prompt, Given]], options: dict[str, Any], max_bytes: int
) -> tuple[int, list[tuple[Forced, _Outputs]]]:
    """Return how many of the prompts' outputs fit, one at least, and those of the tuned model."""
    view = view_of(pair.tuned)
    habits = {name: options[name] for name in ("max_new_tokens", "prepend_bos")}
    found: list[tuple[Forced, _Outputs]] = []
    n, size = 0, 0
    while n < len(waiting) and (not n or 2 * size <= max_bytes):
        prompt, response = waiting[n]
        with asked.guard(prompt):
            said = generate(view, prompt, **habits) if response is None else response
            text = force_tuned(pair, view, prompt, said, prepend_bos=options["prepend_bos"])
            outputs = _read(view, text.tuned, pair.shared_tokens[1])
            size += 4 * outputs.log_probs.numel()
            found.append((text, outputs))
        n += 1
    return n, found


def _beside_base(
    pair: ModelPair, asked: Asked, texts: Sequence[tuple[Forced, _Outputs]], options: dict[str, Any]
) -> dict[str, OutputShift]:
    """Return by the prompt's id how the tuned model's outputs differ from the base's."""
    tokenizer = view_of(pair.tuned).tokenizer
    view, found = view_of(pair.base), {}
    for text, outputs in texts:
        with asked.guard(text.prompt):
            encoded = force_base(pair, view, text, prepend_bos=options["prepend_bos"])
            base = _read(view, encoded, pair.shared_tokens[0])
            bos = {"base": encoded.bos, "tuned": text.tuned.bos}
            found[text.prompt.id] = _compare(pair, text, base, outputs, tokenizer, options | {"bos": bos})
    return found


@torch.no_grad()
def _read(view: ModelView, encoded: Encoded, shared: Int[Tensor, " shared"]) -> _Outputs:
    if not encoded.n_response:
        return _Outputs(torch.zeros(0, len(shared)), torch.zeros(0))
    first = encoded.n_special + encoded.n_prompt - 1
    # the last response token is only predicted, never read
    tokens = torch.tensor(encoded.ids[:-1], device=view.device)
    logits = view.forward.unembed(view.forward.final(tokens[None])[0, first:]).cpu()
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    own = torch.ones(log_probs.shape[1], dtype=torch.bool).index_fill(0, shared, False)
    return _Outputs(log_probs[:, shared].log_softmax(dim=-1), log_probs[:, own].exp().sum(dim=-1))


def _compare(
    pair: ModelPair,
    text: Forced,
    base: _Outputs,
    tuned: _Outputs,
    tokenizer: PreTrainedTokenizerBase,
    options: dict[str, Any],
) -> OutputShift:
    p, q, ids, k, n = tuned.log_probs, base.log_probs, text.shared_ids, options["top_k"], text.tuned.n_response
    likely = [side.topk(k, dim=-1) for side in (q, p)]
    means = torch.stack([side.exp().double().mean(dim=0) for side in (q, p)])
    changed = (means[1] - means[0]).abs().topk(min(CHANGED, p.shape[1]) if n else 0).indices
    used, index = torch.cat([*(side.indices.flatten() for side in likely), changed]).unique(return_inverse=True)
    return OutputShift(
        pair.provenance("output_shift", options),
        prompt_id=text.prompt.id,
        prompt=text.prompt.stripped,
        response=text.response,
        response_kind=text.tuned.response_kind,
        merged=text.tuned.merged,
        n_shared=p.shape[1],
        out_tokens=strings_of(tokenizer, text.tuned.response_ids),
        words=strings_of(tokenizer, tuple(pair.shared_tokens[1][used].tolist())),
        kl=_by_rows(kl_divergence, p, q),
        js=_by_rows(js_distance, p, q),
        agreement=top_k_agreement(p, q, k=k),
        choice_rank=ranks(q, p.argmax(dim=-1)),
        rank=torch.stack([ranks(side, ids) for side in (q, p)]),
        probability=torch.stack([side.gather(-1, ids[:, None])[:, 0].exp() for side in (q, p)]),
        outside=torch.stack([base.outside, tuned.outside]),
        likely=index[: 2 * n * k].reshape(2, n, k),
        likely_probability=torch.stack([side.values.exp() for side in likely]),
        changed=index[2 * n * k :],
        changed_probability=means[:, changed],
        end=text.tuned.end,
    )


def _by_rows(
    measure: Callable[[Tensor, Tensor], Tensor],
    tuned: Float[Tensor, "out_pos shared"],
    base: Float[Tensor, "out_pos shared"],
) -> Float[Tensor, " out_pos"]:
    parts = [measure(p, q) for p, q in zip(tuned.split(ROWS), base.split(ROWS), strict=True)]
    return torch.cat(parts) if len(tuned) else torch.zeros(0, dtype=torch.float64)
