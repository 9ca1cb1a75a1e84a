"""What is differentiated: a number per response token, computed from the logits that predict it.

A target is a function (logits [out_pos, d_vocab], ids [out_pos]) -> [out_pos], the name of one of these, or a
contrast: the logit of one token less that of another, `contrast(" yes", " no")`.

The gradient of a probability by its own logit is p (1 - p). With p near 1 the digits of 1 - p are lost in float32 (and
all of them where 1 - p < 6e-8), and with them those of every score of that response token. So the rest, 1 - p, is
never a difference here: with z the logits and r = log of the sum of exp(z_v) over all v but y,

    log p = log sigmoid(z_y - r),   d log p = (1 - p) d(z_y - r)  with  1 - p = sigmoid(r - z_y),   d p = p d log p
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff.analyses.attribute.target_names import contrasted
from lensdiff.inputs.spans import shorten
from lensdiff.models import ModelView
from lensdiff.results import InputError

Target = Callable[[Float[Tensor, "out_pos d_vocab"], Int[Tensor, " out_pos"]], Float[Tensor, " out_pos"]]


def probability(logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Float[Tensor, " out_pos"]:
    """Return the probability of each response token: the paper's target; exact gradients however near 1 it is."""
    return log_probability(logits, ids).exp()


def log_probability(
    logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]
) -> Float[Tensor, " out_pos"]:
    """Return the natural logarithm of each response token's probability; see the module for its gradient."""
    own = ids[:, None]
    rest = logits.scatter(-1, own, -torch.inf).logsumexp(dim=-1)
    return torch.nn.functional.logsigmoid(logit(logits, ids) - rest)


def logit(logits: Float[Tensor, "out_pos d_vocab"], ids: Int[Tensor, " out_pos"]) -> Float[Tensor, " out_pos"]:
    """Return each response token's logit."""
    return logits.gather(-1, ids[:, None])[:, 0]


TargetName = Literal["probability", "log_probability", "logit"]
TARGETS: dict[TargetName, Target] = {"probability": probability, "log_probability": log_probability, "logit": logit}


@dataclass(frozen=True)
class Contrast:
    """The logit of one token less that of another, at every response token; each text is exactly one token."""

    token: str
    against: str

    @property
    def __name__(self) -> str:
        return f"contrast({self.token!r}, {self.against!r})"

    def of(self, view: ModelView) -> Target:
        """Return the target in a model's own ids.

        Raises:
            InputError: a text is not exactly one token.
        """
        mine, theirs = (one_token(view, text) for text in (self.token, self.against))
        return lambda logits, ids: logits[:, mine] - logits[:, theirs]


def contrast(token: str, against: str) -> Contrast:
    """Return a target: the logit of one token less that of another, z[token] - z[against], at every response token.

    Each text is exactly one token of the model that is attributed, with its space (" yes"); positive scores support the
    first one.

    Args:
        token: the text that positive scores support.
        against: the text whose logit is subtracted.

    Raises:
        InputError: a text is no text, or the two are equal; when it is used: one is not exactly one token.
    """
    if not isinstance(token, str) or not isinstance(against, str) or token == against:
        raise InputError(f"a contrast of {token!r} and {against!r} was asked for, expected two different texts")
    return Contrast(token, against)


def target_named(name: str) -> TargetName | Contrast:
    """Return the target of one model that a config names, as `attribute` takes it: "contrast: yes| no" is a contrast.

    Raises:
        InputError: there is no target of one model of that name.
    """
    if (texts := contrasted(name)) is not None:
        return contrast(*texts)
    found: TargetName | None = next((known for known in TARGETS if known == name), None)
    if found is None:
        raise InputError(f"target {name!r} is none of {', '.join(TARGETS)}, and no contrast:TEXT|TEXT")
    return found


def one_token(view: ModelView, text: str) -> int:
    """Return the id of a text that is one token of the model.

    Raises:
        InputError: it is none, or several.
    """
    ids = view.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = view.tokenizer.convert_ids_to_tokens(ids)
        raise InputError(f"{text!r} is {len(ids)} tokens of {view.info.id} ({shorten(pieces)}), expected exactly one")
    if not 0 <= ids[0] < view.d_vocab:
        raise InputError(f"{text!r} is the token {ids[0]}, for which {view.info.id} has no row")
    return int(ids[0])


def target_of(target: str | Target | Contrast, view: ModelView) -> Target:
    """Return the target that is meant.

    Raises:
        InputError: there is no target of that name, or a contrast's text is not one token.
    """
    if isinstance(target, Contrast):
        return target.of(view)
    if callable(target):
        return target
    if target == "choice":
        raise InputError("target 'choice' sets two models' choices against each other: pair.compare(attribute, ...)")
    if target not in TARGETS:
        raise InputError(
            f"target {target!r} is none of {', '.join(TARGETS)}, a contrast, nor a function of (logits, ids)"
        )
    return TARGETS[target]
