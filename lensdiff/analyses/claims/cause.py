"""One line beside a claim: what an intervention on the models says of it.

The claim's number is a correlation, and its verdict follows from that number alone; a cause changes no verdict. It is
a number of its own, tuned - base or of the pair, beside the same number of every valid control:

    beyond      beyond every kind of control, on one side
    within      not more than meaningless changes give
    too few     fewer than 19 controls of a kind
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

from lensdiff import stats
from lensdiff.analyses.claims.words import MEANINGLESS, beside_words, counted, signed


@dataclass(frozen=True)
class Cause:
    """See the module.

    Attributes:
        what: was done, and the number's name.
        effect: the number; unit: as it follows a number.
        controls: the same number of the valid controls, by kind.
        interval: of the effect over prompts.
        of: what the controls are.
        facts: what else a reader wants to know, a phrase each.
    """

    what: str
    effect: float
    unit: str
    controls: Mapping[str, Sequence[float]] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    facts: tuple[str, ...] = ()
    of: str = MEANINGLESS

    @property
    def beside(self) -> stats.Envelope | None:
        """The effect beside every kind of control; None without any, or without an effect."""
        if isnan(self.effect):
            return None
        needed = stats.FEWEST_FOR_RANK  # a description: no p is corrected and no verdict rests on it
        return stats.against_controls(self.effect, self.controls, needed=needed).envelope

    @property
    def statement(self) -> str:
        """The line: what was done, the number, and where it lies of the controls'."""
        if isnan(self.effect):
            return f"{self.what}: undefined on this pair"
        said = f"{self.what}: {signed(self.effect)}{self.unit}"
        if self.interval is not None:
            low, high = self.interval
            said += f" (95 % over prompts {low:.3g} to {high:.3g})"
        return f"{said}; {_place(self.beside, self.unit, self.of)}"


def _place(beside: stats.Envelope | None, unit: str, of: str) -> str:
    if beside is None:
        return "no controls stand beside it"
    if beside.band is None:
        needed = stats.FEWEST_FOR_RANK
        return f"beside {counted(beside)} controls, too few to tell ({needed} of each kind are needed)"
    words = beside_words(beside, unit, of)
    if beside.verdict() == "beyond":
        return f"{'above' if beside.direction == 'above' else 'below'} every kind of control: {words}"
    return f"no more than {of}: {words}"
