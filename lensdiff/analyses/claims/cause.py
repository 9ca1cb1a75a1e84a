"""One line beside a claim: what an intervention on the models says of it.

The claim's number is a correlation, and its verdict follows from that number alone; a cause changes no verdict. It is
a number of its own, tuned - base or of the pair, beside the same number of every valid control:

    beyond      beyond every kind of control that was made, on one side
    within      not more than meaningless changes give
    too few     fewer than 19 controls of a kind, or a kind of which all are ruined models

Ruined controls are left out where they are run as whole models, and counted (see `words.Made`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

from lensdiff import stats
from lensdiff.analyses.claims.words import MEANINGLESS, Made, beside_words, counted_controls, signed


@dataclass(frozen=True)
class Cause:
    """See the module.

    Attributes:
        what: was done, and the number's name.
        effect: the number; unit: as it follows a number.
        controls: the same number of the valid controls, by kind.
        interval: of the effect over prompts, at `level`.
        made: per kind, how many controls were made, and how many of those that were checked are ruined.
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
    level: float = 0.95
    made: tuple[Made, ...] = ()

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
            said += f" ({100 * self.level:g} % over prompts {low:.3g} to {high:.3g})"
        return f"{said}; {self._place()}{self._left_out()}"

    def _place(self) -> str:
        beside = self.beside
        if beside is None:
            return (
                "no control that is a language model stands beside it" if self.made else "no controls stand beside it"
            )
        lacking = [kind.kind for kind in self.made if not self.controls.get(kind.kind)]
        if beside.band is None or lacking:
            needed = stats.FEWEST_FOR_RANK
            none = "".join(f", of the kind {kind} none" for kind in lacking)
            return f"beside {counted_controls(beside)}{none}, too few to tell ({needed} of each kind are needed)"
        words = beside_words(beside, self.unit, self.of)
        if beside.verdict() == "beyond":
            return f"{'above' if beside.direction == 'above' else 'below'} every kind of control: {words}"
        return f"no more than {self.of}: {words}"

    def _left_out(self) -> str:
        ruined = [f"{kind.invalid} {kind.kind}" for kind in self.made if kind.invalid]
        return f"; left out as ruined models: {', '.join(ruined)}" if ruined else ""
