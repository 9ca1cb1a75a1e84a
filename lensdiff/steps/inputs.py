"""What the work of one unit may use: what its step said that it needs and reads, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.vocabulary import Vocabulary
from lensdiff.inputs.word_vectors import WordVectors
from lensdiff.models import Model
from lensdiff.models.pair import ModelPair
from lensdiff.results import InputError, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.options import Options
from lensdiff.steps.plan import Plan
from lensdiff.steps.step import Need, Read, Step
from lensdiff.steps.supplies import Supplies
from lensdiff.steps.unit import Unit


class Inputs:
    """See the module. Asking for anything that the step did not name is a fault of the step, not of the user.

    Attributes:
        found: the results that the unit reads.
        say: tells the user a line.
    """

    def __init__(
        self,
        step: Step[Any, Any],
        unit: Unit,
        reads: Sequence[Read],
        plan: Plan,
        supplies: Supplies,
        store: ResultStore,
        say: Callable[[str], None],
    ):
        self._step, self._unit, self._plan, self._supplies = step, unit, plan, supplies
        self.say = say
        units: dict[str, list[Unit]] = {}
        for read in reads:
            units.setdefault(read.step, []).append(read.unit)
        self.found = Found(store, units)

    @property
    def model(self) -> Model:
        """The unit's own model: base, tuned or a control."""
        self._check("model")
        name = self._unit.model
        assert name is not None
        if self._unit.control is None:
            return self._supplies.side(name)
        return self._supplies.control(self._plan.control(name))

    @property
    def base(self) -> Model:
        self._check("base", "pair")
        return self._supplies.pair.base

    @property
    def pair(self) -> ModelPair:
        self._check("pair")
        return self._supplies.pair

    @property
    def prompt(self) -> Prompt:
        """The unit's own prompt, rendered as the run asks for.

        Raises:
            InputError: it cannot be rendered.
        """
        assert self._unit.prompt is not None
        return self.prompt_of(self._unit.prompt)

    def prompt_of(self, prompt_id: str) -> Prompt:
        """Return the prompt with an id; the unit's own, unless it needs all of them.

        Raises:
            InputError: it cannot be rendered.
        """
        self._check("prompts" if prompt_id != self._unit.prompt else "prompt", "prompts")
        return self._supplies.rendered(self._plan.prompts[prompt_id], self._plan.template)

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """All prompts that can be rendered; why another one cannot, its response says."""
        found = {}
        for prompt_id in self.unrendered:
            with suppress(InputError):
                found[prompt_id] = self.prompt_of(prompt_id)
        if self._plan.prompts and not found:
            self.prompt_of(next(iter(self._plan.prompts)))  # raises
        return found

    @property
    def unrendered(self) -> Mapping[str, Prompt]:
        """All prompts as they were given."""
        self._check("prompts")
        return self._plan.prompts

    def given(self, prompt_id: str) -> str | None:
        """Return the response that the config gives a prompt, or None for the model's own."""
        self._check("prompts" if prompt_id != self._unit.prompt else "prompt", "prompts")
        return self._plan.given.get(prompt_id)

    @property
    def vocabulary(self) -> Vocabulary:
        self._check("vocabulary")
        return self._supplies.vocabulary

    @property
    def vectors(self) -> WordVectors:
        self._check("vectors")
        return self._supplies.vectors

    @property
    def texts(self) -> tuple[str, ...]:
        """Plain texts that nobody is to answer."""
        self._check("texts")
        return self._supplies.texts

    @property
    def seed(self) -> int:
        self._check("seed")
        return self._plan.seed

    def _check(self, *needs: Need) -> None:
        assert self._step.needs & set(needs), f"step {self._step.name} asks for {needs[0]}, which it does not need"


def chosen(step: Step[Any, Any], options: Options) -> Any:
    """Return the options that a step's work is given: reading one that is not among its keys is an error."""
    return _guarded(step, type(options)).model_construct(**dict(options))


@cache
def _guarded(step: Step[Any, Any], kind: type[Options]) -> type[Options]:
    """Return a class of options of which a step may read those alone that its results are known by."""
    hidden = kind.model_fields.keys() - set(step.keys)

    class Guarded(kind):
        def __getattribute__(self, name: str) -> Any:
            assert name not in hidden, f"step {step.name} reads the option {name}, none of its keys {step.keys}"
            return super().__getattribute__(name)

    return Guarded
