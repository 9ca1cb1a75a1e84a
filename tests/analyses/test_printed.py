"""What is printed: of everything that a function returns a few short lines that name the models and what comes next."""

import importlib
import inspect
import pkgutil
import re
from typing import Any

import pandas as pd
import pytest

import lensdiff.analyses
from lensdiff.inputs.toy_pair import BASE
from lensdiff.results import Diff, Result, Results
from lensdiff.results.fields import axes_of
from lensdiff.results.printed import LINES, sizes
from tests.analyses.every import EVERY, Toy, toy

WIDEST = 120
TERMINAL = 100
ONE_LINE = ("Prompt", "Response")  # values, which stand in lists
NAMELESS = ("Prompt", "Vocabulary", "WordVectors")  # of no model


@pytest.fixture(scope="module")
def made() -> Toy:
    return toy()


def names_of(thing: Any) -> list[str]:
    """The models that a thing is of."""
    if isinstance(thing, Diff):
        return [name for side in (thing.base, thing.tuned) for name in names_of(side)]
    if isinstance(thing, Results):
        return names_of(thing[0])
    if isinstance(thing, lensdiff.ModelPair):
        return list(thing.ids)
    if hasattr(thing, "provenance") and not callable(thing.provenance):
        return [thing.provenance.model]
    return [thing.info.id] if hasattr(thing, "info") else [thing.model]


@pytest.mark.parametrize("name", EVERY)
def test_what_is_printed_is_short_and_names_the_models_and_what_comes_next(made: Toy, name: str) -> None:
    thing = made[name]
    said = repr(thing)
    lines = said.splitlines()
    assert 1 <= len(lines) <= LINES == 8, said
    assert max(map(len, lines)) <= WIDEST, said
    assert "tensor(" not in said
    assert "object at 0x" not in said
    assert "\x1b" not in said
    if name == "ModelPair not loaded":
        assert str(BASE)[:20] in said
    elif type(thing).__name__ not in NAMELESS:
        for model in names_of(thing):
            assert model[:30] in said, said
    if type(thing).__name__ in ONE_LINE:
        assert len(lines) == 1
        return
    assert len(lines) >= 3, said
    assert lines[-1].startswith("  next: "), said
    following = re.findall(r"(\w+)(\([^)]*\))?", lines[-1].removeprefix("  next: "))
    assert following
    for name, call in following:
        found = getattr(thing, name)
        assert not call or callable(found), name
        if call == "()" and name not in ("control", "free", "check"):
            assert found() is not None


def test_every_class_of_result_is_among_them(made: Toy) -> None:
    for module in pkgutil.walk_packages(lensdiff.__path__, "lensdiff."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def of_lensdiff(kind: type) -> set[type]:
        found = {one for sub in kind.__subclasses__() for one in (sub, *of_lensdiff(sub))}
        return {one for one in found if one.__module__.startswith("lensdiff.")}

    assert {kind.__name__ for kind in of_lensdiff(Result)} <= EVERY.keys()
    for kind in of_lensdiff(Result):
        assert type(made[kind.__name__]) is kind


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("Prompt", "Vocabulary", "WordVectors")])
def test_a_table_of_the_first_rows_fits_a_terminal(made: Toy, name: str) -> None:
    thing = made[name]
    if not hasattr(thing, "top"):
        assert name.startswith("Model")
        return
    first = thing.top(5)
    assert isinstance(first, pd.DataFrame)
    assert len(first)
    if not isinstance(thing, Diff | Results):  # which put the model, or the prompt, in front
        assert max(map(len, first.to_string(max_colwidth=50).splitlines())) <= TERMINAL, first.to_string()
        assert len(first.columns) <= 9


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("Prompt", "Vocabulary", "WordVectors")])
def test_the_columns_of_a_table_are_described(made: Toy, name: str) -> None:
    thing = made[name]
    if not isinstance(thing, Result):
        return
    said = inspect.getdoc(type(thing).to_df) or ""
    families = [*re.findall(r"(?<!\w)(\w+_)(?!\w)", said), *re.findall(r"(?<!\w)(_\w+)", said)]  # "with folded_"
    for column in map(str, thing.to_df().columns):
        named = re.search(rf"(?<![\w-]){re.escape(column)}(?![\w-])", said) is not None
        assert named or any(column.startswith(part) or column.endswith(part) for part in families), column


@pytest.mark.parametrize("name", EVERY)
def test_a_notebook_shows_the_widget(made: Toy, name: str) -> None:
    thing = made[name]
    if isinstance(thing, Result | Diff | Results):
        assert thing._repr_html_().startswith("<iframe srcdoc=")
    else:
        assert not hasattr(thing, "_repr_html_")


def test_the_names_of_the_package() -> None:
    assert set(dir(lensdiff)) == {*lensdiff.__all__, "__version__"}
    assert re.fullmatch(r"\d+\.\d+.*", lensdiff.__version__)


@pytest.mark.parametrize("name", [name for name in EVERY if name[0].isupper()])
def test_how_much_was_read_is_said_in_a_readers_words(made: Toy, name: str) -> None:
    thing = made[name]
    if not isinstance(thing, Result):
        return
    said = sizes(thing)
    assert "_" not in said
    rows = "row" in {axis for axes in axes_of(type(thing)).values() for axis in axes}
    assert rows == ("each a" in said), "a row of what?"
    for part in said.removeprefix("beside controls: ").replace("; ", ", ").split(", "):
        assert not part or re.match(r"\d+ [a-z]|each a |or a ", part), said
