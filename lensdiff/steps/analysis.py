"""An analysis: one question, its options, and the folder that measures, draws and runs it.

The folder's `__init__` holds the `Analysis` and its options alone, so that the command's help imports nothing heavy.
What runs lies in its module `steps` (STEPS, TABLES), what the report and the command show in `section` (SECTION,
SUMMARIES, headlines, controls_beside).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from lensdiff.steps.options import Options

if TYPE_CHECKING:
    import pandas as pd

    from lensdiff.steps.found import Found
    from lensdiff.steps.headline import Headline
    from lensdiff.steps.step import Step
    from lensdiff.steps.tables import TableDoc
    from lensdiff.views.section import Section

O = TypeVar("O", bound=Options)  # noqa: E741 (options)
Ask = Literal["prompts", "words", "texts"]


@dataclass(frozen=True)
class Analysis(Generic[O]):
    """See the module.

    Attributes:
        name: key in the config, verb of the command, anchor in the report, folder.
        question: what it answers, a clause without a full stop: help of the command, row of the README's table.
        more: a second paragraph of the command's help.
        beside: what its numbers stand beside.
        options: the class of its options.
        asks: what it reads beside the models: prompts (and responses), words (a word list and word vectors),
            texts (plain ones, that nobody is to answer).
        controls: how many controls of each kind stand beside it by default; None where there are none.
        first_kind: whether controls are of the first kind alone.
        effects: what `template_effects` calls its numbers; none where they are not among its measures.
        both: whether it reads prompts in both renderings, raw and through the chat template.
        done: when it is asked for, by a key of the config or by its command; always, with whatever it reads; or apart,
            by a command of its own on a results directory.
        package: the folder.
    """

    name: str
    question: str
    options: type[O]
    more: str = ""
    beside: str = ""
    asks: frozenset[Ask] = field(default_factory=frozenset)
    controls: int | None = None
    first_kind: bool = False
    effects: tuple[str, ...] = ()
    both: bool = False
    done: Literal["asked", "always", "apart"] = "asked"
    package: str = ""

    @property
    def runs(self) -> bool:
        """Whether models are run, and their weights not merely read."""
        return bool(self.asks & {"prompts", "texts"})

    @property
    def steps(self) -> "tuple[Step[Any, Any], ...]":
        """Its units of work."""
        return self._module("steps").STEPS

    @property
    def tables(self) -> "tuple[TableDoc[Any], ...]":
        """Its tables."""
        return self._module("steps").TABLES

    @property
    def section(self) -> "Section":
        """Its section of the report."""
        return self._module("section").SECTION

    @property
    def summaries(self) -> "Mapping[str, Callable[[Found], pd.DataFrame]]":
        """The tables that the command prints, by their titles."""
        return getattr(self._module("section"), "SUMMARIES", {})

    @property
    def headlines(self) -> "Callable[[Found], Sequence[Headline]]":
        """What it found to be most shifted, a sentence each: what a reader of the report sees first."""
        return getattr(self._module("section"), "headlines", _no_headlines)

    @property
    def controls_beside(self) -> "Callable[[Found], Mapping[str, list[str]]]":
        """The kinds of the controls that stand beside what: what a reader of the report must know first."""
        return getattr(self._module("section"), "controls_beside", _no_controls)

    def _module(self, name: str) -> Any:
        return import_module(f"{self.package or f'lensdiff.analyses.{self.name}'}.{name}")


def _no_headlines(found: "Found") -> "Sequence[Headline]":
    return ()


def _no_controls(found: "Found") -> "Mapping[str, list[str]]":
    return {}
