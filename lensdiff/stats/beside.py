"""An effect beside several kinds of controls: it counts only beyond every kind, all on one side.

No single kind of meaningless change is the null: a statistic may lie far above what random rotations of the change do
and far below what random gradients do, and still mean nothing. So

    band        from the smallest low to the largest high of the kinds' own bands (`rank_band`)
    direction   above or below the medians of all kinds; between them there is none
    p           the largest of the kinds' two-sided rank p-values; 1 between the kinds

An effect beyond every band has p of at most 1 - level, and the reverse. p is valid if one of the kinds is the right
null: it is at least that kind's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lensdiff.results.errors import InputError
from lensdiff.stats.controls import FEWEST_FOR_RANK, control_rank, one_effect, rank_band
from lensdiff.stats.result import Band, format_p
from lensdiff.stats.samples import check_level, observations

FEWEST_FOR_VERDICT = 59  # p can reach 1/60, what Holm over three claims asks of the smallest

Direction = Literal["above", "below"]
Verdict = Literal["beyond", "beyond all, too few", "within", "too few"]

SIDES: tuple[set[Direction | None], ...] = ({"above"}, {"below"})


@dataclass(frozen=True)
class ControlKind:
    """The controls of one kind: how many, what they centre on, their band and the effect's two-sided rank p.

    low, high and p are None with fewer than 19. `side` is where the effect lies of all of them, None among them.
    """

    kind: str
    n: int
    median: float
    low: float | None
    high: float | None
    p: float | None
    side: Direction | None


@dataclass(frozen=True)
class Envelope:
    """An effect beside every kind of control made; see the module.

    Attributes:
        effect: of the tuned model, in the units of the controls' own.
        kinds: one entry per kind.
        level: of the bands.
        needed: controls of every kind that a verdict needs.
    """

    effect: float
    kinds: tuple[ControlKind, ...]
    level: float
    needed: int

    @property
    def n(self) -> int:
        """The number of controls of the smallest kind."""
        return min(kind.n for kind in self.kinds)

    @property
    def direction(self) -> Direction | None:
        """Where the effect lies of the medians of all kinds; None between them, or on one."""
        if all(self.effect > kind.median for kind in self.kinds):
            return "above"
        return "below" if all(self.effect < kind.median for kind in self.kinds) else None

    @property
    def band(self) -> tuple[float, float] | None:
        """The largest of the kinds' bands; None where one has fewer than 19 controls."""
        lows, highs = (
            [k.low for k in self.kinds if k.low is not None],
            [k.high for k in self.kinds if k.high is not None],
        )
        return (min(lows), max(highs)) if len(lows) == len(self.kinds) else None

    @property
    def p(self) -> float | None:
        """The largest p of the kinds, 1 between them; None where one has fewer than 19 controls."""
        values = [kind.p for kind in self.kinds if kind.p is not None]
        if len(values) < len(self.kinds):
            return None
        return max(values) if self.direction else 1.0

    def __str__(self) -> str:
        """Return for example `0.31; controls' bands 0.02 to 0.11 (59 gradient-noise, 59 spectrum), p = 0.017`."""
        counts = ", ".join(f"{kind.n} {kind.kind}" for kind in self.kinds)
        if self.band is None or self.p is None:
            return f"{self.effect:.3g}; too few controls to tell ({counts}; {FEWEST_FOR_RANK} of each kind are needed)"
        low, high = self.band
        return f"{self.effect:.3g}; controls' bands {low:.3g} to {high:.3g} ({counts}), {format_p(self.p)}"

    def verdict(self, p: float | None = None) -> Verdict:
        """Return the key of the words that the controls allow; where it lies is `direction`.

            "too few"               fewer than 19 controls of a kind: too few to tell
            "beyond all, too few"   beyond each control of every kind, all on one side, but too few for a corrected p
            "beyond"                enough controls, and p of at most 1 - level
            "within"                anything else

        Args:
            p: the corrected p, for example after Holm's correction or with a permutation's p in the maximum; the
                envelope's own by default.
        """
        if self.n < FEWEST_FOR_RANK or self.p is None:
            return "too few"
        if self.n < self.needed:
            return "beyond all, too few" if {kind.side for kind in self.kinds} in SIDES else "within"
        tested = max(self.p, self.p if p is None else p)
        return "beyond" if tested <= 1 - self.level + 1e-12 else "within"


def envelope(
    effect: SupportsFloat,
    control_effects: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    needed: int = FEWEST_FOR_VERDICT,
) -> Envelope:
    """Return an effect beside the same effect of every kind of control, one sample per kind.

    Raises:
        InputError: no kind is given, one has no controls, or a value is not finite.
    """
    check_level(level)
    if needed < FEWEST_FOR_RANK:
        raise InputError(f"needed={needed} given, expected at least {FEWEST_FOR_RANK} controls")
    if not control_effects:
        raise InputError("no kind of control was given, expected at least one")
    value = one_effect(effect)
    kinds = [_kind(value, kind, given, level) for kind, given in control_effects.items()]
    return Envelope(value, tuple(kinds), level, needed)


def _kind(effect: float, kind: str, given: ArrayLike, level: float) -> ControlKind:
    controls = observations(given, f"controls {kind!r}", least=1)
    low = high = p = None
    if len(controls) >= FEWEST_FOR_RANK:
        test, band = control_rank(effect, controls, level=level), rank_band(controls, level=level)
        low, high, p = float(band.low), float(band.high), test.p
    side: Direction | None = "above" if effect > controls.max() else "below" if effect < controls.min() else None
    return ControlKind(kind, len(controls), float(np.median(controls)), low, high, p, side)


def envelope_band(control_effects: Mapping[str, ArrayLike], *, level: float = 0.95) -> Band:
    """Return the largest of the kinds' bands, per entry of the axes after the first (layer, head), which have no p.

    Raises:
        InputError: no kind is given, one has fewer than 19 controls, the kinds differ in shape, or a value is not
            finite.
    """
    if not control_effects:
        raise InputError("no kind of control was given, expected at least one")
    bands = {kind: rank_band(given, level=level) for kind, given in control_effects.items()}
    shapes = {kind: band.low.shape for kind, band in bands.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the kinds' effects have shapes {shapes}, expected one shape after the axis of controls")
    return Band(
        np.min([band.low for band in bands.values()], axis=0), np.max([band.high for band in bands.values()], axis=0)
    )


def by_kind(effects: Sequence[float], kinds: Sequence[str]) -> dict[str, list[float]]:
    """Return the effects of controls whose kinds are named one by one, as a sample per kind."""
    return {
        kind: [effect for effect, name in zip(effects, kinds, strict=True) if name == kind]
        for kind in dict.fromkeys(kinds)
    }


def kinds_band(
    control_effects: Float[np.ndarray, " control *shape"], kinds: Sequence[str], *, level: float = 0.95
) -> Band:
    """Return `envelope_band` of controls whose kinds are named one by one; NaN where a kind has fewer than 19.

    With fewer there is no band: what one more control gives cannot be told.

    Raises:
        InputError: too few for this level, or a value is not finite.
    """
    rows = {kind: [i for i, name in enumerate(kinds) if name == kind] for kind in dict.fromkeys(kinds)}
    bands = [kind_band(control_effects[own], level=level) for own in rows.values()] or [kind_band(control_effects)]
    # a kind without a band leaves none to all: NaN is the smallest and the largest
    return Band(np.min([band.low for band in bands], axis=0), np.max([band.high for band in bands], axis=0))


def kind_band(control_effects: Float[np.ndarray, " control *shape"], *, level: float = 0.95) -> Band:
    """Return `rank_band` of the controls of one kind; NaN with fewer than 19.

    Raises:
        InputError: as `rank_band`, for a level that so many controls cannot have.
    """
    if len(control_effects) < FEWEST_FOR_RANK:
        return Band(*np.full((2, *control_effects.shape[1:]), np.nan))
    return rank_band(control_effects, level=level)
