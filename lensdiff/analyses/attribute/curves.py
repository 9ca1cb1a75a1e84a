"""What deletion and insertion curves say: how fast a response loses its tokens' probability, beside random orders.

    deletion   drop(k) = log p(y | x) - log p(y | x without the first k tokens)              0 at none
    insertion  gain(k) = log p(y | first k tokens alone) - log p(y | none of them)           0 at none
    area       of either over the share of the tokens, 0 to 1: the mean height of the curve

All are nats per response token. The larger the area, the more of the response's probability hangs on what the order
names first. The insertion of an order is the deletion of the reversed one, read from its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from lensdiff import stats
from lensdiff.analyses.attribute.removal import area
from lensdiff.results import InputError, Result
from lensdiff.results.diff import SIDES

BY = ("deletion", "insertion")
RANDOM = "random orders"
DIFFERENCE = "tuned - base"


@dataclass(frozen=True, eq=False)
class DeletionCurve(Result):
    """Curves of prompts in one model, or in both of a pair on the same text; see the module.

    Attributes:
        prompt_id: the prompts.
        models: one model's name, or "base" and "tuned".
        orders: what the tokens were ordered by: "density" (of the model's own map); in a pair "base", "tuned" (of
            either's map) and "difference" (tuned - base); or "given".
        n_in: the prompt's tokens; removed: how many of them are left out at each point.
        deleted, inserted: log-probability per token, nats; an insertion's point has n_in less what is removed, from the
            end of `removed`.
        random_deleted: the same of random orders, those of both models alike.
        failures: why a prompt is not among them; level: of the bands.
    """

    calls = ("summary()", "top()", "to_df()", "show()")

    models: tuple[str, ...]
    orders: tuple[str, ...]
    prompt_id: tuple[str, ...]
    n_in: Int[Tensor, " prompt"]
    removed: Int[Tensor, "prompt point"]
    deleted: Float[Tensor, "prompt order model point"]
    inserted: Float[Tensor, "prompt order model point"]
    random_deleted: Float[Tensor, "prompt draw model point"]
    failures: dict[str, str]
    level: float

    @property
    def shown(self) -> tuple[str, ...]:
        """The models, and of a pair their difference."""
        return (*self.models, DIFFERENCE) if self.models == SIDES else self.models

    def shares(self, by: str = "deletion") -> Float[Tensor, "prompt point"]:
        """Return at which shares of the tokens the points lie, 0 to 1.

        Args:
            by: "deletion" or "insertion".
        """
        self._check(by, BY, "by")
        most = self.removed[:, -1:].double()
        return (self.removed if by == "deletion" else most - self.removed.flip(-1)) / most

    def curve(self, order: str, model: str, by: str = "deletion") -> Float[Tensor, "prompt point"]:
        """Return the drop, or the gain, of each prompt along an order; of `tuned - base` the tuned model's less the
        base's.

        Raises:
            InputError: there is no such order or model, or `by` is neither.
        """
        self._check(order, self.orders, "order")
        self._check(by, BY, "by")
        levels = self.deleted if by == "deletion" else self.inserted
        return self._of(levels[:, self.orders.index(order)], model, by)

    def random(self, model: str, by: str = "deletion") -> Float[Tensor, "prompt draw point"]:
        """Return the same of random orders.

        Args:
            model: one of `models`, or "tuned - base".
            by: "deletion" or "insertion".

        Raises:
            InputError: as `curve`.
        """
        self._check(by, BY, "by")
        return self._of(self.random_deleted if by == "deletion" else self.random_deleted.flip(-1), model, by)

    def areas(
        self, order: str, model: str, by: str = "deletion"
    ) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "draw prompt"]]:
        """Return the area of each prompt along an order, and those of random orders.

        Args:
            order: one of `orders`.
            model: one of `models`, or "tuned - base".
            by: "deletion" or "insertion".

        Raises:
            InputError: as `curve`.
        """
        at, drawn = self.shares(by), self.random(model, by)
        own = area(at, self.curve(order, model, by)).numpy()
        return own, area(at[:, None].expand_as(drawn), drawn).T.numpy()

    def beside(self, order: str, model: str, by: str = "deletion") -> stats.Envelope | None:
        """Return the area, mean over prompts, beside that of random orders; None without any.

        Args:
            order: one of `orders`.
            model: one of `models`, or "tuned - base".
            by: "deletion" or "insertion".

        Raises:
            InputError: as `curve`.
        """
        own, drawn = self.areas(order, model, by)
        if not len(drawn):
            return None
        needed = stats.FEWEST_FOR_RANK
        of_draws = {RANDOM: drawn.mean(axis=1)}
        return stats.against_controls(float(own.mean()), of_draws, level=self.level, needed=needed).envelope

    def to_df(self) -> pd.DataFrame:
        """Return a row per prompt, order, model, way and point.

        Columns: prompt_id, order, model, by, tokens (removed, or put in), share (of the tokens), log_prob (NaN of
        tuned - base), change (drop or gain), random_low, random_high (limits within which one more random order lies).
        """
        frames = [frame for by in BY for frame in self._frames(by)]
        return pd.concat(frames, ignore_index=True)

    def _frames(self, by: str) -> Iterator[pd.DataFrame]:
        levels = self.deleted if by == "deletion" else self.inserted
        tokens = self.removed if by == "deletion" else self.n_in[:, None] - self.removed.flip(-1)
        for order in self.orders:
            for model in self.shown:
                change, drawn = self.curve(order, model, by), self.random(model, by)
                band = self._band(drawn.permute(1, 0, 2).numpy())
                known = model in self.models
                log_prob = levels[:, self.orders.index(order), self.models.index(model)] if known else change * np.nan
                values = {"tokens": tokens, "share": self.shares(by), "log_prob": log_prob, "change": change}
                columns: dict[str, Any] = {"prompt_id": np.repeat(np.array(self.prompt_id, object), tokens.shape[1])}
                columns |= {"order": order, "model": model, "by": by}
                columns |= {name: value.reshape(-1).numpy() for name, value in values.items()}
                yield pd.DataFrame(columns).assign(random_low=band.low.reshape(-1), random_high=band.high.reshape(-1))

    def summary(self) -> pd.DataFrame:
        """Return a row per order, model and way: areas, means over prompts.

        Columns: order, model, by, n (prompts), area, random (mean of random orders), random_low, random_high (limits
        within which the area of one more random order lies; missing with fewer than 19 draws).
        """
        rows = []
        for order in self.orders:
            for model in self.shown:
                for by in BY:
                    own, drawn = self.areas(order, model, by)
                    means = drawn.mean(axis=1)
                    band = self._band(means)
                    random = float(means.mean()) if len(means) else np.nan
                    rows.append((order, model, by, len(own), own.mean(), random, float(band.low), float(band.high)))
        columns = ["order", "model", "by", "n", "area", "random", "random_low", "random_high"]
        return pd.DataFrame(rows, columns=columns)

    def mean_band(self, model: str, by: str = "deletion") -> stats.Band:
        """Return at each point the limits within which one more random order lies, mean over prompts.

        Args:
            model: one of `models`, or "tuned - base".
            by: "deletion" or "insertion".
        """
        return self._band(self.random(model, by).mean(dim=0).numpy())

    def top(self, k: int = 10) -> pd.DataFrame:
        """Return the k rows of the areas that are farthest above random orders: as `summary`."""
        frame = self.summary()
        above = (frame["area"] - frame["random"].fillna(0.0)).to_numpy()
        return frame.iloc[np.argsort(-above, kind="stable")[:k]].reset_index(drop=True)

    def told(self) -> list[str]:
        """Return the areas beside random orders."""
        lines = ["area of the curve, nats per token:"]
        frame = self.summary()
        other = (frame["order"] != frame["model"]) & (len(self.models) > 1)  # a model's own order comes first
        rows: Any = frame.assign(other=other).sort_values(["by", "other"], kind="stable").itertuples()
        for row in rows:
            beside = "" if np.isnan(row.random) else f" (random orders {row.random:.3g}"
            beside += "" if not beside else (")" if np.isnan(row.random_low) else f", {self._limits(row)})")
            lines.append(f"{row.by} by {row.order}, {row.model}: {row.area:.3g}{beside}")
        return lines

    @staticmethod
    def _limits(row: Any) -> str:
        return f"{row.random_low:.3g} to {row.random_high:.3g}"

    def _of(self, levels: Float[Tensor, "prompt ... model point"], model: str, by: str) -> Float[Tensor, "prompt ..."]:
        self._check(model, self.shown, "model")
        change = levels[..., :1] - levels if by == "deletion" else levels - levels[..., :1]
        if model == DIFFERENCE:
            return change[..., 1, :] - change[..., 0, :]
        return change[..., self.models.index(model), :]

    def _band(self, drawn: Float[np.ndarray, "draw ..."]) -> stats.Band:
        beside = {RANDOM: drawn} if len(drawn) else {}
        band = stats.against_controls(None, beside, level=self.level).band
        return band if len(drawn) else stats.Band(*np.full((2, *drawn.shape[1:]), np.nan))

    @staticmethod
    def _check(given: str, known: tuple[str, ...], what: str) -> None:
        if given not in known:
            raise InputError(f"{what}={given!r} is none of {', '.join(known)}")
