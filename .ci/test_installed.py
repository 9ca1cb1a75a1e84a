"""The installed wheel is whole and stands alone.

`make dist` runs this in an environment that holds the wheel and what it requires, from a folder outside the sources.
"""

import json
import re
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest

import lensdiff
from lensdiff.inputs import toy_pair

SOURCES = Path(__file__).parents[1]
INSTALLED = Path(sysconfig.get_path("purelib")) / "lensdiff"
WHEEL = distribution("lensdiff")
FILES = [Path(str(file)) for file in WHEEL.files or []]


def test_it_is_the_wheel_that_is_imported():
    assert Path(lensdiff.__file__) == INSTALLED / "__init__.py"
    assert not INSTALLED.is_relative_to(SOURCES / "lensdiff")
    origin = json.loads(WHEEL.read_text("direct_url.json") or "{}")
    assert origin["url"].endswith(f"/lensdiff-{lensdiff.__version__}-py3-none-any.whl")


def test_every_file_of_the_package_ships_as_it_is():
    sources = [path for path in (SOURCES / "lensdiff").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(sources) > 400
    for path in sources:
        assert (INSTALLED / path.relative_to(SOURCES / "lensdiff")).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "__init__.pyi",
        "inputs/data/words.tsv",
        "inputs/data/verbs.tsv",
        "inputs/data/texts.txt",
        "inputs/data/WORDNET_LICENSE",
        "inputs/data/annotation_prompts.toml",
        "inputs/data/toy_pair/base/model.safetensors",
        "inputs/data/toy_pair/tuned/model.safetensors",
        "inputs/data/toy_pair/WORDNET_LICENSE",
        "views/static/lensdiff.js",
        "views/static/lensdiff.css",
        "views/static/report.html.j2",
        "analyses/attribute/attribution.js",
    ],
)
def test_what_is_needed_beside_the_code_ships(name):
    assert (INSTALLED / name).is_file()
    assert Path("lensdiff", name) in FILES


def test_nothing_but_the_package_ships():
    about = f"lensdiff-{lensdiff.__version__}.dist-info"
    assert {file.parts[0] for file in FILES} == {"lensdiff", about, ".."}
    assert [file.name for file in FILES if file.parts[0] == ".."] == ["lensdiff"], "the command alone lies elsewhere"
    unwanted = {"tests", "experiments", "notebooks", "conftest.py", "benchmarks"}
    assert not [file for file in FILES if unwanted & set(file.parts) or file.name.startswith("test_")]


def test_the_licences_ship():
    for name in ("LICENSE", "NOTICES.md", "lensdiff/inputs/data/WORDNET_LICENSE"):
        assert WHEEL.read_text(f"licenses/{name}") == (SOURCES / name).read_text(encoding="utf-8")


def test_what_was_installed_is_the_core_alone():
    """No extra is needed for the toy pair, and nothing that only tests need."""
    for name in ("peft", "gguf", "sentence_transformers", "openai", "ray", "captum", "statsmodels"):
        with pytest.raises(ModuleNotFoundError):
            __import__(name)


def test_a_first_result():
    pair = lensdiff.load_pair(toy_pair.BASE, toy_pair.TUNED)
    shifts = lensdiff.weight_shift(pair).top()
    assert (shifts["relative_norm"] > 0).all()
    assert (lensdiff.weight_shift(lensdiff.load_pair(toy_pair.BASE, toy_pair.BASE)).top()["relative_norm"] == 0).all()


def test_the_demo_left_its_report():
    page = Path("lensdiff-demo", "report.html").read_text(encoding="utf-8")
    assert "What changed" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
