"""Effects beside several kinds of controls: an effect counts only beyond every kind, all on one side.

No single kind of meaningless change is the null: a statistic may lie far above what random rotations of the change do
and far below what random gradients do, and still mean nothing. So

    band        from the smallest low to the largest high of the kinds' own bands (`rank_band`)
    direction   above or below the medians of all kinds; between them there is none
    p           the largest of the kinds' two-sided rank p-values; 1 between the kinds

An effect beyond every band has p of at most 1 - level, and the reverse. p is valid if one of the kinds is the right
null: it is at least that kind's own. Of many effects (one per layer, head or prompt) there are bands alone: a p is of
one number that was fixed beforehand, which has an `Envelope`. With fewer than 19 controls of a kind there is neither.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat, TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lensdiff.results.errors import InputError
from lensdiff.stats.controls import FEWEST_FOR_RANK, control_rank, rank_band
from lensdiff.stats.result import Band, format_p
from lensdiff.stats.samples import check_level, enough, numbers

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


@dataclass(frozen=True)
class Beside:
    """What `against_controls` finds.

    Attributes:
        kinds: of controls, in the order they came.
        bands: of each kind (axis 0, then those of the effect); NaN with fewer than 19 controls of it.
        envelope: of an effect that is one number; None of others, and without controls.
    """

    kinds: tuple[str, ...]
    bands: Band
    envelope: Envelope | None

    @property
    def band(self) -> Band:
        """The largest of the kinds' bands; NaN without controls, or where one kind has none."""
        low, high = self.bands
        if not self.kinds:
            return Band(*np.full((2, *low.shape[1:]), np.nan))
        return Band(low.min(axis=0), high.max(axis=0))  # NaN is the smallest and the largest


def against_controls(
    effect: ArrayLike | SupportsFloat | None,
    controls: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    limits: tuple[float, float] = (-np.inf, np.inf),
    needed: int = FEWEST_FOR_VERDICT,
) -> Beside:
    """Return effects beside the same effects of every kind of control that was made.

    Args:
        effect: one number, or many of any shape; None where there is none and the band is all that is asked for.
        controls: by kind, their effects on axis 0 (see `by_kind`); none for an effect that nothing stands beside.
        level: of the bands.
        limits: between which an effect lies by its definition; bands end there.
        needed: controls of every kind that a verdict needs.

    Raises:
        InputError: a kind has no controls, shapes differ, a value is not finite, or there are 19 controls and too few
            for this level.
    """
    check_level(level)
    if needed < FEWEST_FOR_RANK:
        raise InputError(f"needed={needed} given, expected at least {FEWEST_FOR_RANK} controls")
    value = None if effect is None else numbers(effect, "effect")
    samples = {kind: _sample(kind, given) for kind, given in controls.items()}
    shapes = [sample.shape[1:] for sample in samples.values()]
    shape = value.shape if value is not None else shapes[0] if shapes else ()
    for kind, own in zip(samples, shapes, strict=True):
        if own != shape:
            raise InputError(f"an effect of controls {kind!r} has shape {own}, expected {shape} as the others have")
    bands = {kind: _band(sample, level) for kind, sample in samples.items()}
    low, high = (np.reshape([band[i] for band in bands.values()], (len(bands), *shape)) for i in (0, 1))
    found = None
    if value is not None and value.ndim == 0 and samples:
        kinds = tuple(_kind(float(value), kind, sample, bands[kind], level) for kind, sample in samples.items())
        found = Envelope(float(value), kinds, level, needed)
    return Beside(tuple(samples), Band(low.clip(*limits), high.clip(*limits)), found)


def _sample(kind: str, given: ArrayLike) -> Float[np.ndarray, "control ..."]:
    sample = numbers(given, f"controls {kind!r}")
    if sample.ndim == 0:
        raise InputError(f"controls {kind!r} is one number, expected one per control on axis 0")
    return enough(sample, f"controls {kind!r}", least=1)


def _band(controls: Float[np.ndarray, "control ..."], level: float) -> Band:
    """Return the band of one kind, NaN with too few: what one more control gives cannot be told."""
    if len(controls) < FEWEST_FOR_RANK:
        return Band(*np.full((2, *controls.shape[1:]), np.nan))
    return rank_band(controls, level=level)


def _kind(effect: float, kind: str, controls: Float[np.ndarray, " control"], band: Band, level: float) -> ControlKind:
    low = high = p = None
    if len(controls) >= FEWEST_FOR_RANK:
        low, high, p = float(band.low), float(band.high), control_rank(effect, controls, level=level).p
    side: Direction | None = "above" if effect > controls.max() else "below" if effect < controls.min() else None
    return ControlKind(kind, len(controls), float(np.median(controls)), low, high, p, side)


E = TypeVar("E")


def by_kind(effects: Iterable[E], kinds: Sequence[str]) -> dict[str, list[E]]:
    """Return the effects of controls whose kinds are named one by one, as a sample per kind."""
    found: dict[str, list[E]] = {kind: [] for kind in kinds}
    for effect, kind in zip(effects, kinds, strict=True):
        found[kind].append(effect)
    return found
