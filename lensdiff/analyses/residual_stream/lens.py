"""The logit lens: what a model would say if its residual stream went to the unembedding behind an earlier layer.

With h^l the stream that enters layer l (l = n_layers: the model's own output), J the model's own final norm,
unembedding, scale and soft cap, and P^l = softmax J(h^l) at the position that predicts a response token:

    kl          KL(P^n_layers || P^l) = sum_v P^n[v] ln(P^n[v] / P^l[v])        nats, in [0, inf), 0 at n_layers
    rank        1 + how many tokens J(h^l) puts above the response's token
    prob        P^l of that token
    committed   the first layer from which the most probable token is that of the model's output, and stays it

J is no formula of ours: the stream is written behind the model's last layer and the rest of the model is run. That this
gives the model's own output when it is given its own last stream is checked on every text.

What the lens reads in early layers need not be what the model "thinks": a layer that turns the stream makes it say
noise. Read differences beside the same differences of control models.

Memory: the stream of one text, as many layers at a time as fit into 256 MB, and its logits [out_pos, d_vocab] twice.

Reference: nostalgebraist, interpreting GPT: the logit lens, 2020; Belrose et al., arXiv 2303.08112 (direction of KL).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.outputs.distributions import likeliest, ranks
from lensdiff.analyses.residual_stream.forced import Read, groups, read
from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.models import Model, ModelView, Point
from lensdiff.models.asked import Asked, Given
from lensdiff.models.given import one_model
from lensdiff.models.inside.ending import behind_last
from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.tape import CLOSE, same
from lensdiff.models.layers import chosen_indices
from lensdiff.models.response import Response
from lensdiff.models.templates import Template
from lensdiff.models.text import MAX_NEW_TOKENS, token_strings
from lensdiff.results import InputError, Result, Results
from lensdiff.results.tidy import tidy

TOP_K = 8  # most probable tokens that are kept of each layer and position
ROWS = 32  # positions whose logits are compared at a time


# kernels
def commitment(choices: Int[Tensor, "layer out_pos"]) -> Int[Tensor, " out_pos"]:
    """Return the first place from which every choice is the last one."""
    stays = (choices == choices[-1]).flip(0).cumprod(dim=0)
    return len(choices) - stays.sum(dim=0)


class Lens(NamedTuple):
    """What one layer's stream says of the response; see the module."""

    kl: Float[Tensor, " out_pos"]
    rank: Int[Tensor, " out_pos"]
    prob: Float[Tensor, " out_pos"]
    likely: Int[Tensor, "out_pos k"]
    likely_prob: Float[Tensor, "out_pos k"]


def compare(
    own: Float[Tensor, "out_pos d_vocab"],
    log_probs: Float[Tensor, "out_pos d_vocab"],
    said: Int[Tensor, " out_pos"],
    p: Float[Tensor, "out_pos d_vocab"] | None = None,
) -> Lens:
    """Return what a layer's log-probabilities say of the response, beside those of the model's output.

    Args:
        p: the output's probabilities, given where it says every token: of a large vocabulary each pass over it counts.
    """
    if p is not None:
        gap = (own - log_probs).mul_(p)
    else:  # what the output never says adds nothing, whatever the layer makes of it
        p = own.exp()
        gap = torch.where(p > 0, p * (own - log_probs), 0.0)
    kl = gap.sum(dim=-1).double().clamp(min=0)  # torch sums by halves; in float64 a large vocabulary is copied first
    of_token = log_probs.gather(-1, said[:, None])
    values, likely = likeliest(log_probs, TOP_K)
    return Lens(kl, ranks(log_probs, said), of_token[:, 0].exp().double(), likely, values.exp().double())


@dataclass(frozen=True, eq=False)
class LogitLens(Result):
    """What a model would say of a response behind each layer; see the module for the measures.

    Attributes:
        prompt_id, prompt, response: the prompt's id and text, and the response's text.
        out_tokens: the response's tokens, as text.
        n_layers: of the model; layers: those that are read, `n_layers` (the model's own output) the last of them.
        words: tokens that `likely` counts, and `word_ids` their ids in the model's vocabulary.
        kl, rank, prob: of each layer and response token.
        likely, likely_prob: the most probable tokens, best first, and their probabilities.
        committed: of each response token, a layer.
        end: the end token that was said after them; "" where they were cut off, None where nobody knows.
    """

    prompt_id: str
    prompt: str
    response: str
    out_tokens: tuple[str, ...]
    n_layers: int
    layers: tuple[int, ...]
    words: tuple[str, ...]
    word_ids: Int[Tensor, " word"]
    kl: Float[Tensor, "layer out_pos"]
    rank: Int[Tensor, "layer out_pos"]
    prob: Float[Tensor, "layer out_pos"]
    likely: Int[Tensor, "layer out_pos k"]
    likely_prob: Float[Tensor, "layer out_pos k"]
    committed: Int[Tensor, " out_pos"]
    end: str | None = None

    @property
    def choices(self) -> Int[Tensor, "out_pos k"]:
        """The ids of the tokens that the model's own output finds most probable, best first."""
        return self.word_ids[self.likely[-1]]

    def to_df(self) -> pd.DataFrame:
        """Return a row per response token and layer.

        Columns: prompt_id, out_pos, token, layer, kl, rank, prob, top, committed.
        """
        tops = [[self.words[i] for i in row] for row in self.likely[:, :, 0].T.tolist()]
        values = {"kl": self.kl.T, "rank": self.rank.T, "prob": self.prob.T}
        frame = tidy({"out_pos": range(len(self.out_tokens)), "layer": self.layers}, values)
        places = frame["out_pos"].to_numpy()
        frame.insert(0, "prompt_id", self.prompt_id)
        frame.insert(2, "token", [self.out_tokens[i] for i in places])
        frame["top"] = [word for row in tops for word in row]
        frame["committed"] = self.committed.numpy()[places]
        return frame

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the rows of the model's own output at the k response tokens that it commits to last."""
        frame: Any = self.to_df()
        last = frame[frame["layer"] == self.n_layers].nlargest(k, "committed").reset_index(drop=True)
        return last.loc[:, ["out_pos", "token", "layer", "top", "rank", "prob", "committed"]]

    def told(self) -> list[str]:
        """Return the layer of commitment, and the mean KL and probability by layer."""
        kl, prob = (", ".join(f"{x:.3g}" for x in values.mean(dim=1).tolist()) for values in (self.kl, self.prob))
        committed = f"committed at layer {float(self.committed.double().mean()):.3g} on average"
        return [committed, f"KL to the output, by layer: {kl}", f"probability of the token: {prob}"]


@overload
def logit_lens(
    model: Model,
    prompt: Prompt | str,
    response: str | Response | None = None,
    *,
    layers: Sequence[int] | None = ...,
    max_tokens: int | None = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> LogitLens: ...
@overload
def logit_lens(
    model: Model,
    prompt: Sequence[Prompt | str],
    response: Sequence[str | Response | None] | None = None,
    *,
    layers: Sequence[int] | None = ...,
    max_tokens: int | None = ...,
    max_new_tokens: int = ...,
    prepend_bos: bool | None = ...,
    template: Template = ...,
    progress: bool | None = ...,
) -> Results[LogitLens]: ...
def logit_lens(
    model: Model,
    prompt: Any,  # what the overloads do not name is refused in words
    response: Any = None,
    *,
    layers: Sequence[int] | None = None,
    max_tokens: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prepend_bos: bool | None = None,
    template: Template = RAW,
    progress: bool | None = None,
) -> LogitLens | Results[LogitLens]:
    """Return what the model would say of a response behind each of its layers; a list of prompts gives `Results`.

    Args:
        model: one model; for a pair `pair.compare(logit_lens, ...)`.
        prompt: a prompt, or a list of them (one that fails is warned of and the rest go on).
        response: a text, joined to the prompt as prompt + " " + response, a `Response`, or None for the model's own
            greedy one; with a list of prompts, a list.
        layers: whose entering stream is read, from 0; None for all. n_layers, the model's own output, is always read.
        max_tokens: of the response, the first ones; None for all.
        max_new_tokens: of the model's own response.
        prepend_bos: None for the checkpoint's own habit.
        template: "raw", or "chat": as the chat template writes the prompts.
        progress: show a progress bar for a list; None shows it on a terminal.

    Raises:
        InputError: a layer that there is not, or a list that is not what is expected; of one prompt (or of all in a
            list): the response is empty, a text cannot be tokenised, or the model's stream cannot be read and written.
    """
    view = one_model(model, "logit_lens")
    asked = Asked.of(prompt, response, template=template, model=model)
    n_layers = view.n_layers
    chosen = tuple(sorted({*chosen_indices(layers, range(n_layers + 1), "layers"), n_layers}))
    options = {"max_tokens": max_tokens, "max_new_tokens": max_new_tokens, "prepend_bos": prepend_bos}
    provenance = view.provenance("logit_lens", {"layers": list(chosen), **options})

    def of_one(one: Prompt, given: Given) -> LogitLens:
        text = read(view, one, given, **options)
        return LogitLens(provenance, **text.labels, n_layers=n_layers, layers=chosen, **_read(view, text, chosen))

    return asked.results(asked.each(of_one, "reading layers", progress))


@torch.no_grad()
def _read(view: ModelView, text: Read, layers: tuple[int, ...]) -> dict[str, Any]:
    """Return the arrays of a result, layer by layer."""
    said, found = text.said.to(view.device), []
    finals = _finals(view.forward, text, layers)
    own = _log_probs(view.forward.unembed(next(finals)))
    p = own.exp() if bool(own.isfinite().all()) else None
    for final in finals:
        found.append(_compared(own, view.forward.unembed(final), said, p))
    found.append(compare(own, own, said, p))
    kl, rank, prob, likely, likely_prob = (torch.stack(part).cpu() for part in zip(*found, strict=True))
    ids, places = likely.unique(return_inverse=True)
    return {
        "words": token_strings(view, tuple(ids.tolist())),
        "word_ids": ids,
        "kl": kl,
        "rank": rank,
        "prob": prob,
        "likely": places,
        "likely_prob": likely_prob,
        "committed": torch.tensor(layers)[commitment(likely[:, :, 0])],
    }


def _compared(own: Tensor, logits: Tensor, said: Tensor, p: Tensor | None) -> Lens:
    """Return what a layer's logits say, few positions at a time: what is made of them stays in a processor's cache."""
    some = [slice(start, start + ROWS) for start in range(0, len(own), ROWS)]
    parts = [compare(own[i], _log_probs(logits[i]), said[i], None if p is None else p[i]) for i in some]
    return Lens(*map(torch.cat, zip(*parts, strict=True)))


def _finals(forward: Forward, text: Read, layers: tuple[int, ...]) -> Iterator[Float[Tensor, "out_pos d_model"]]:
    """Yield what the unembedding reads, then what it would read behind each of the layers but the last.

    Raises:
        InputError: the last stream does not lead to what the unembedding reads.
    """
    sizes, tokens = forward.sizes, text.ids[None]
    last, final = Point("resid_post", sizes.n_layers - 1), Point("final")
    more: list[Point] = [last, final]  # what the first pass reads beside its layers
    for some in groups(layers[:-1], tokens.numel() * sizes.d_model * sizes.dtype.itemsize) if layers[:-1] else [()]:
        points = [Point("resid_pre", layer) for layer in some]
        found = forward.run(tokens, read=[*points, *more], until=final if more else points[-1])
        streams = [found[point][0, text.first :] for point in points]
        if more:
            own = found[final][0, text.first :]
            yield own
            again = torch.cat([*behind_last(forward, found[last][0, text.first :])])
            if not same(again, own, CLOSE[sizes.dtype]):
                raise InputError(
                    f"the logit lens of {forward.name} cannot be read: its last stream, written behind its last "
                    "layer, does not give its output"
                )
        more = []
        if streams:
            yield from torch.cat([*behind_last(forward, torch.cat(streams))]).split(text.n_out)


def output_choices(view: ModelView, text: Read) -> Int[Tensor, "out_pos k"]:
    """Return the ids of the tokens that the model finds most probable at each response token, best first."""
    with torch.no_grad():
        final = view.forward.final(text.ids[None])[0, text.first :]
        return likeliest(_log_probs(view.forward.unembed(final)), TOP_K)[1].cpu()


def _log_probs(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row d_vocab"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
