"""What is said of a claim: one sentence per case, of the number that is tested and of nothing else.

An effect that lies below the controls' never reads "more": the words follow the effect's place beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lensdiff import stats
from lensdiff.results.numbers import n_of

Name = Literal["instruction", "heads", "rotation"]
Case = Literal[
    "shown",
    "opposite",
    "beyond, too few",
    "within",
    "held back",
    "wrong side",
    "below",
    "nothing",
    "depends",
    "too few",
    "no controls",
    "ruined",
    "lacking",
    "references",
]
SIGNIFICANT = 0.05
MOST_INVALID = 0.5  # of a kind's controls
MEANINGLESS = "meaningless changes of the same size"


@dataclass(frozen=True)
class Words:
    """How a claim's number is put.

    Attributes:
        what: the number's name, as it stands before it.
        above, below: what an effect above, or below, all controls means.
        risen, fallen: what a rise, or a fall, that is smaller than the controls' is; empty for a share.
        unit: as it follows a number.
    """

    what: str
    above: str
    below: str
    risen: str = ""
    fallen: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Made:
    """The controls of one kind: how many were made, how many of them were run on text, and how many are ruined.

    A ruined (invalid) control predicts the base's own samples worse than the tuned model and than a uniform guess.
    """

    kind: str
    made: int
    checked: int = 0
    invalid: int = 0

    @property
    def ruined(self) -> bool:
        """Whether most of those that were run are: a change of this size then ruins the model, whatever it means."""
        return self.checked > 0 and self.invalid > MOST_INVALID * self.checked


def sentence(
    case: Case,
    words: Words,
    *,
    effect: float,
    beside: stats.Envelope | None,
    made: Sequence[Made],
    p: float | None,
    n_tested: int,
    permuted: Mapping[str, float],
    depends: Sequence[tuple[str, str]],
) -> str:
    """Return the sentence of a case, for example:

    `The response depends more on its instruction than after meaningless changes: instruction use, tuned less base,
    +0.25 nats per token; the 95 % bands of meaningless changes of the same size reach from -0.03 to 0.05 nats per token
    (59 gradient-noise, 59 spectrum); adjusted p = 0.05, Holm over 3 claims.`
    """
    shown = signed(effect) if words.risen else _plain(effect)  # a share has no sign
    number = f"{words.what} {shown}{words.unit}"
    if case == "nothing":
        return f"Nothing changed: {words.what} is exactly 0."
    if case == "ruined":
        kind = next(kind for kind in made if kind.ruined)
        return (
            f"Not testable: a change of this size ruins the base, whatever it means ({kind.invalid} of "
            f"{n_of(kind.checked, f'{kind.kind} control')} predict the base's own text worse than the tuned model and "
            f"than a uniform guess); {number}."
        )
    if case == "lacking":
        kind = next(kind for kind in made if not kind.made)
        return f"Too few controls to tell: {number}; of the kind {kind.kind} none could be made and read."
    if beside is None:
        return f"Nothing to compare with: {number}; no controls were made, so what {MEANINGLESS} give is unknown."
    if case == "too few":
        return (
            f"Too few controls to tell: {number}; {counted(beside)} were made, a band needs "
            f"{stats.FEWEST_FOR_RANK} of each kind and a verdict {beside.needed}."
        )
    said, corrected = (
        f"{number}; {beside_words(beside, words.unit)}",
        f"adjusted {_p(p)}, Holm over {n_of(n_tested, 'claim')}",
    )
    risen = words.risen if effect > 0 else words.fallen
    above = beside.direction == "above"
    return {
        "shown": f"{words.above}: {said}; {corrected}.",
        "opposite": f"{words.below}: {said}; {corrected}.",
        "beyond, too few": (
            f"{words.above if above else words.below}: {said}. The number of controls is too small for a corrected p "
            f"({beside.needed} of each kind)."
        ),
        "within": f"No more than {MEANINGLESS}: {said}.",
        "held back": f"Not shown: {said}; {_held_back(permuted, p, n_tested)}.",
        "wrong side": f"{risen}: {said}.",
        "below": f"{words.below}: {said}.",
        "depends": f"{_depends(depends)}: {said}.",
        "references": (
            f"Not shown: {said}; beyond random directions lies any training, so controls of another kind are needed."
        ),
    }[case]


def beside_words(beside: stats.Envelope, unit: str, of: str = MEANINGLESS) -> str:
    """Return where the controls' bands reach, and how many controls there are."""
    if beside.band is None:
        return f"beside {counted(beside)}"
    low, high = beside.band
    return (
        f"the {100 * beside.level:g} % bands of {of} reach from {_plain(low)} to {_plain(high)}{unit} "
        f"({counted(beside)})"
    )


def counted(beside: stats.Envelope) -> str:
    """Return for example `59 gradient-noise, 59 spectrum`."""
    return ", ".join(f"{kind.n} {kind.kind}" for kind in beside.kinds)


def counted_controls(beside: stats.Envelope) -> str:
    """Return the same with what they are: `59 gradient-noise, 59 spectrum controls`."""
    return f"{counted(beside)} control{'' if beside.kinds[-1].n == 1 else 's'}"


def _held_back(permuted: Mapping[str, float], p: float | None, n_tested: int) -> str:
    large = {name: value for name, value in permuted.items() if value > SIGNIFICANT}
    reasons = [f"{name} do as much ({stats.format_p(value)})" for name, value in large.items()]
    return "but " + (reasons[0] if reasons else f"adjusted {_p(p)}, Holm over {n_of(n_tested, 'claim')}")


def _depends(depends: Sequence[tuple[str, str]]) -> str:
    of = dict.fromkeys(what for what, _ in depends)
    return f"It depends on {' and '.join(of)} ({', '.join(way for _, way in depends)})"


def _p(p: float | None) -> str:
    return "p unknown" if p is None else stats.format_p(p)


def signed(value: float) -> str:
    """Return a number with its sign, 0 without."""
    return f"{value:+.3g}" if value else "0"


def _plain(value: float) -> str:
    return f"{value:.3g}"
