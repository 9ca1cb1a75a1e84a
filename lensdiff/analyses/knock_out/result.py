"""What `knock_out` finds of one response in one model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensdiff.analyses.knock_out.cuts import Condition
from lensdiff.results import Result
from lensdiff.results.numbers import n_of

SHOWN = 3  # ways to cut that are told where it is printed


@dataclass(frozen=True, eq=False)
class KnockOut(Result):
    """What each token of a response loses when attention to its instruction is cut; see `measure`.

    Attributes:
        prompt_id, prompt, response: the prompt's id and text, and the response's text.
        out_tokens: the response's tokens, as text.
        merged: the tokenizer merged prompt and response at their boundary.
        response_kind: "generated" (ids as generated) or "text" (tokenised with the prompt).
        n_instruction: tokens of the instruction, token 0 included; n_others: tokens that a draw takes from.
        conditions: in which way it was cut, a row of the arrays each.
        log_prob: of each token with nothing cut, nats.
        drop: log_prob less that with the instruction cut, nats: positive where the token needs it.
        random_drop: the same with as many other tokens cut, by draw; NaN where there are fewer.
        end: the end token that was said after them; "" where they were cut off, None where nobody knows.
    """

    calls = ("summary()", "top()", "to_df()", "show()")

    prompt_id: str
    prompt: str
    response: str
    response_kind: str
    merged: bool
    out_tokens: tuple[str, ...]
    n_instruction: int
    n_others: int
    conditions: tuple[Condition, ...]
    log_prob: Float[Tensor, " out_pos"]
    drop: Float[Tensor, "condition out_pos"]
    random_drop: Float[Tensor, "condition draw out_pos"]
    end: str | None = None

    def to_df(self) -> pd.DataFrame:
        """Return a row per way to cut and response token.

        Columns: prompt_id, cut, window_first, window_last (the layers that were cut), out_pos, token, log_prob, drop,
        random_drop (mean of the draws), first (whether token 0 was cut too: an instruction that begins with it has
        rows of both).
        """
        n, columns = len(self.out_tokens), self._conditions(len(self.out_tokens))
        first = columns.pop("first")
        columns |= {"out_pos": np.tile(np.arange(n), len(self.conditions))}
        columns |= {"token": list(self.out_tokens) * len(self.conditions)}
        columns |= {"log_prob": self.log_prob.repeat(len(self.conditions)).numpy()}
        columns |= {"drop": self.drop.flatten().numpy(), "random_drop": self.mean_random().flatten().numpy()}
        return pd.DataFrame(columns | {"first": first})

    def summary(self) -> pd.DataFrame:
        """Return a row per way to cut: the means over the response, and the median, which no unlikely token rules.

        Columns: prompt_id, cut, window_first, window_last, first, n_out, log_prob, drop, drop_median, random_drop,
        slope (of drop over relative position, see `slopes`); NaN of an empty response.
        """
        columns = self._conditions(1)
        columns |= {"n_out": len(self.out_tokens), "log_prob": _mean(self.log_prob).item()}
        columns |= {"drop": _mean(self.drop).numpy(), "drop_median": medians(self.drop).numpy()}
        columns |= {"random_drop": _mean(self.mean_random()).numpy(), "slope": slopes(self.drop).numpy()}
        return pd.DataFrame(columns)

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows that lose most."""
        columns = ["cut", "window_first", "window_last", "out_pos", "token", "drop", "random_drop"]
        return self.to_df().nlargest(k, "drop").reset_index(drop=True).loc[:, columns]

    def told(self) -> list[str]:
        """Return the mean loss beside that of other tokens for each way to cut, and the token that loses most."""
        of_what = f"{n_of(len(self.out_tokens), 'token')}, the instruction's {self.n_instruction} cut"
        lines = [f"nats lost by {of_what}:"]
        of_others = _mean(self.mean_random()).tolist()
        for condition, drop, others in list(zip(self.conditions, self.drop, of_others, strict=True))[:SHOWN]:
            if not len(drop):
                continue
            beside = "not to be had" if np.isnan(others) else f"{others:+.3g}"
            most = f"{float(drop.max()):+.3g} at {self.out_tokens[int(drop.argmax())]!r}"
            lines.append(f"{condition}: mean {float(drop.mean()):+.3g} (other tokens cut {beside}), most {most}")
        if len(self.conditions) > SHOWN:
            lines.append(f"{len(self.conditions) - SHOWN} more, see summary()")
        return lines

    def mean_random(self) -> Float[Tensor, "condition out_pos"]:
        """Return `random_drop`, mean over draws."""
        return self.random_drop.mean(dim=1)

    def _conditions(self, times: int) -> dict[str, Any]:
        frame = pd.DataFrame(list(self.conditions), columns=list(Condition._fields))
        repeated: dict[str, Any] = {name: np.repeat(frame[name].to_numpy(), times) for name in frame}
        return {"prompt_id": self.prompt_id} | repeated


def _mean(values: Float[Tensor, "*rest out_pos"]) -> Float[Tensor, "*rest"]:
    return values.mean(dim=-1)  # NaN of nothing


def medians(values: Float[Tensor, "*rest out_pos"]) -> Float[Tensor, "*rest"]:
    """Return medians over a response's tokens (between the two in the middle), NaN of an empty one."""
    if not values.shape[-1]:
        return values.mean(dim=-1)
    return values.quantile(0.5, dim=-1)


def slopes(values: Float[Tensor, "*rest out_pos"]) -> Float[Tensor, "*rest"]:
    """Return the least-squares slope over relative position: the change from a response's beginning to its end.

    Token m of M stands at (m + 1/2) / M. NaN with fewer than two tokens.
    """
    n = values.shape[-1]
    if n < 2:
        return torch.full(values.shape[:-1], torch.nan, dtype=values.dtype)
    place = (torch.arange(n, dtype=values.dtype) + 0.5) / n - 0.5
    return (values @ place) / (place @ place)
