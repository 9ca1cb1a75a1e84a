"""A step of a run: what its units are, what each of them needs and reads, and the function that does one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from lensdiff.results import InputError, Result
from lensdiff.results.manifest import Kept
from lensdiff.steps.options import Options
from lensdiff.steps.plan import Plan
from lensdiff.steps.unit import WHOLE, Unit

if TYPE_CHECKING:
    from lensdiff.steps.inputs import Inputs
    from lensdiff.steps.probe import Probe

O = TypeVar("O", bound=Options)  # noqa: E741 (options)
R = TypeVar("R", bound=Result)
Need = Literal["model", "pair", "both", "prompt", "prompts", "vocabulary", "vectors", "texts", "seed", "base"]


class NotPossible(InputError):
    """This pair or these prompts do not allow the unit; the run goes on without it, and does not try again."""


@dataclass(frozen=True)
class Read:
    """A result that a unit reads; without a required one it cannot be done."""

    step: str
    unit: Unit = WHOLE
    required: bool = True


def no_reads(plan: Plan, unit: Unit, options: Any) -> Iterable[Read]:
    """Return what a unit reads that reads nothing."""
    return ()


def one_unit(plan: Plan, options: Any) -> list[Unit]:
    """Return the only unit of a step that is done at once."""
    return [WHOLE]


def no_units(plan: Plan, options: Any) -> list[Unit]:
    """Return the units of a step that has those alone that other steps read."""
    return []


def no_cost(probe: "Probe", unit: Unit, options: Any) -> float:
    """Return what a unit costs that only reads and writes."""
    return 0.0


SMALL = 2_500.0  # bytes of a result that holds a few numbers: most of it is what says where they come from


def small_size(probe: "Probe", unit: Unit, options: Any, kept: Kept) -> float:
    """Return the bytes of a result that holds a few numbers."""
    return SMALL


def all_kept(plan: Plan, unit: Unit, options: Any) -> Kept:
    """Return how much stays of a result that is shown, or asked for again."""
    return "whole"


def none_kept(plan: Plan, unit: Unit, options: Any) -> Kept:
    """Return how much stays of a result that is there for its readers alone."""
    return "nothing"


@dataclass(frozen=True, eq=False)
class Step(Generic[O, R]):
    """One step of a run.

    A unit is known by a digest of all that its result depends on: the values of `keys`, the identity of `needs`, and
    the digests of what it reads. Nothing else may reach `work`, so that a changed key repeats what depends on it, and
    nothing else.

    Attributes:
        name: of its results; title: what the progress bar calls it.
        options: the class of the options that it reads; keys: the names of those that its numbers depend on.
        result: the class of what a unit gives.
        units: its units for a run; those that another step reads are added.
        work: does one unit. It returns its result, and the runner saves it.
        cost: about how many seconds a unit takes, its control excepted.
        size: about how many bytes what is kept of its result takes on the disk.
        reads: the results of other steps that a unit reads. Such a step comes before this one.
        needs: what a unit needs beside them: its own model (base, tuned or control), the pair, both models in memory,
            its prompt, all prompts, words, word vectors, plain texts, the seed, the base (whatever the unit's model).
        kept: how much of a result stays once its readers are done; part: makes the part of it.
        lacks: why prompts are not in a result that is of several, by their ids.
        block: does several units of one model, or of none, at once: `at_once` where both models are held, more where
            one is held at a time; a result or an error for each.
    """

    name: str
    title: str
    options: type[O]
    result: type[R]
    units: Callable[[Plan, O], list[Unit]]
    work: Callable[["Inputs", Unit, O], R]
    cost: Callable[["Probe", Unit, O], float]
    size: Callable[["Probe", Unit, O, Kept], float] = small_size
    reads: Callable[[Plan, Unit, O], Iterable[Read]] = no_reads
    needs: frozenset[Need] = frozenset()
    keys: tuple[str, ...] = ()
    kept: Callable[[Plan, Unit, O], Kept] = all_kept
    part: Callable[[R], R] | None = None
    lacks: Callable[[R], Mapping[str, str]] | None = None
    block: Callable[[Sequence["Inputs"], Sequence[Unit], O], Sequence[R | InputError]] | None = None
    at_once: int = 1

    def __post_init__(self) -> None:
        unknown = [key for key in self.keys if key not in self.options.model_fields]
        assert not unknown, f"step {self.name} has the keys {unknown}, which are none of {self.options.__name__}"
