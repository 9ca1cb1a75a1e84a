"""What tests the tests: neither of them says that all is well where nothing was tested."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.soak import run as soak

FORMULA, TESTS = "lensdiff/sum.py", "tests/test_sum.py"
SEES = "from lensdiff.sum import total\n\ndef test_total():\n    assert total(1, 2) == 3\n"


@pytest.fixture
def mutate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, on a project of one formula whose tests are to be written."""
    spec = importlib.util.spec_from_file_location("mutate", ROOT / ".ci" / "mutate.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    files = {FORMULA: "def total(a, b):\n    return a + b\n", "lensdiff/__init__.py": "", "pyproject.toml": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("tests", "experiments"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(found, "ROOT", tmp_path)
    monkeypatch.setattr(found, "MUTATIONS", [found.Mutation(FORMULA, "a + b", "a - b", TESTS)])
    monkeypatch.setattr(sys, "argv", ["mutate.py"])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return found


@pytest.mark.parametrize(
    ("tests", "code", "said"),
    [
        (SEES, 0, "1 of 1 broken formulas were seen"),
        ("def test_nothing():\n    pass\n", 1, "LIVES"),
        (SEES.replace("3", "4"), 2, "the unbroken tests do not pass"),
        ("", 2, "the unbroken tests do not pass"),
        ("import of_nothing\n", 2, "the unbroken tests do not pass"),
    ],
    ids=["sees", "does not see", "fails anyway", "no test", "no module"],
)
def test_a_formula_is_broken_where_its_tests_pass(mutate, capsys, tests: str, code: int, said: str):
    (mutate.ROOT / TESTS).write_text(tests)
    assert mutate.main() == code
    told = capsys.readouterr().out
    assert said in told
    assert ("killed" in told) is (code == 0)


def test_a_word_that_no_formula_holds_is_refused(mutate, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mutate.py", "zzz"])
    assert mutate.main() == 2
    assert "no file and no formula holds 'zzz'" in capsys.readouterr().out


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_soaked_command_that_fails_by_itself_ends_the_soak(tmp_path, monkeypatch, code: int):
    """The first run fails, the next is killed, the last one ends well."""
    programs = [f"raise SystemExit({code})", "import time; time.sleep(60)", ""]

    def start(*_: object) -> subprocess.Popen[str]:
        program = programs.pop(0)
        return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(soak, "start", start)
    monkeypatch.setattr(soak, "compare", lambda *_: 1)
    nothing: Any = None
    with pytest.raises(AssertionError, match=rf"\({code}, ''\)"):
        soak.kills(tmp_path, tmp_path / "c.toml", nothing, 2.0, 1, soak.Figures())
    assert len(programs) == 2  # nothing was begun after it


def test_every_formula_that_is_to_be_broken_stands_once():
    spec = importlib.util.spec_from_file_location("mutate", ROOT / ".ci" / "mutate.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    for mutation in found.MUTATIONS:
        text = (ROOT / found.whole(mutation.file, "lensdiff")).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, mutation
        assert mutation.new != mutation.old
        assert (ROOT / found.whole(mutation.tests, "tests")).is_file(), mutation
