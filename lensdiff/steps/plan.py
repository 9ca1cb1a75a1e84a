"""What a run is about, as far as it is known before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lensdiff.defaults import RAW
from lensdiff.inputs.prompts import Prompt
from lensdiff.results import Control
from lensdiff.steps.options import Options
from lensdiff.steps.unit import SIDES, Unit, split_control

O = TypeVar("O", bound=Options)  # noqa: E741 (options)
LAYERS_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """See the module.

    Attributes:
        options: of every analysis, by their class.
        prompts: by their ids, in order; given: the responses that the config gives some of them.
        n_layers: of both models.
        seed: of controls and resampling.
        both: whether both models are held in memory at once.
        controls: the names of the controls that stand beside an analysis, by its name, for those that were chosen.
        checked: the controls that are run on text to see whether they still are language models.
        templates: how prompts are rendered, "raw" or "chat"; analyses read them as the first, what compares renderings
            reads both.
    """

    options: Mapping[type[Options], Options]
    prompts: Mapping[str, Prompt]
    given: Mapping[str, str]
    n_layers: int
    seed: int
    both: bool
    controls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    checked: tuple[str, ...] = ()
    templates: tuple[str, ...] = (RAW,)

    @property
    def template(self) -> str:
        """How analyses read the prompts."""
        return self.templates[0]

    def options_of(self, kind: type[O]) -> O:
        """Return the options of a class."""
        found = self.options[kind]
        assert isinstance(found, kind)
        return found

    def control(self, name: str) -> Control:
        """Return which control a name stands for."""
        kind, number = split_control(name)
        return Control(kind, self.seed + number)


def sides_and_prompts(plan: Plan, options: object = None) -> list[Unit]:
    """Return a unit per model and prompt: all prompts of the base, then all of the tuned model."""
    return [Unit(side, prompt) for side in SIDES for prompt in plan.prompts]


def layer_units(plan: Plan, model: str, layers: Sequence[int] | None) -> list[Unit]:
    """Return the units of a model, a group of layers each: a long analysis is stopped between them."""
    chosen = tuple(range(plan.n_layers)) if layers is None else tuple(layers)
    return [Unit(model, layers=chosen[i : i + LAYERS_AT_ONCE]) for i in range(0, len(chosen), LAYERS_AT_ONCE)]
