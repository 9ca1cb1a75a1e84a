"""What stands beside the code is true: citation, public names, requirements, locks, and what a warning does."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lensdiff
from tests import conftest

ROOT = Path(__file__).parents[1]
LOCKS = ("constraints.txt", "constraints-tl4.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [Requirement(line) for line in chain(PROJECT["dependencies"], *EXTRAS.values())]
TOOLS = [
    Requirement(line)
    for line in (ROOT / "dev-requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
# the public names as they are designed, and the results that are read from files by name
DESIGNED = re.findall(
    r"\w+",
    """
load_model load_pair ModelPair Diff generate Response Prompt load_prompts Vocabulary WordVectors load_published
attribute Attribution instruction_use position_profile head_word_pairs verb_shift pair_overlap ov_reading qk_reading
attention attention_shift knock_out mlp_concepts value_rotation rotation coherence annotate output_shift weight_shift
deletion_curve
logit_lens direct_logit_attribution layer_similarity activation_difference directions patch patch_sweep
first_divergence contrast dose series template_effects plan run Report show_progress
""",
)
READ_BY_NAME = ["AttentionPatterns", "HeadWordPairs", "MLPConcepts"]
STUB = {
    alias.asname or alias.name: f"lensdiff.{node.module}"
    for node in ast.parse((ROOT / "lensdiff" / "__init__.pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def test_citation_is_valid():
    cffconvert = pytest.importorskip("cffconvert")
    citation = cffconvert.Citation((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    citation.validate()  # raises where it is not
    assert citation.cffobj["cff-version"] == "1.2.0"


def test_citation_has_this_version_and_the_papers_seven_authors():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("lensdiff")
    (paper,) = citation["references"]
    assert [a["family-names"] for a in paper["authors"]] == ["Wu", "Yao", "Chen", "Pan", "Wang", "Liu", "Yu"]
    assert paper["doi"] == "10.18653/v1/2024.naacl-long.130"


def test_public_names_are_the_designed_ones():
    assert set(STUB) == set(DESIGNED) | set(READ_BY_NAME)
    assert set(lensdiff.__all__) == set(STUB) <= set(dir(lensdiff))


@pytest.mark.parametrize("name", STUB)
def test_a_public_name_is_what_the_stub_says(name):
    found = getattr(lensdiff, name)
    assert callable(found)
    assert found is getattr(importlib.import_module(STUB[name]), name)
    assert found.__module__ == STUB[name], "it is handed on from where it is defined"


def test_importing_lensdiff_imports_nothing_large():
    code = "import sys, lensdiff; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "lensdiff" in run.stdout.split()
    assert not {"torch", "pandas", "numpy", "transformers", "tqdm"} & set(run.stdout.split())


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="lensdiff attribute atribute"):
        _ = lensdiff.atribute


# requirements and locks


def locked(name: str) -> dict[str, Version]:
    """The packages of a lock, each by its canonical name."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pairs = [re.fullmatch(r"([a-z0-9.-]+)==([a-z0-9.]+)", line) for line in lines]
    assert None not in pairs, "a line other than name==version, or a build's own suffix (+cpu)"
    return {canonicalize_name(pair[1]): Version(pair[2]) for pair in pairs if pair}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_every_requirement_in_its_range(lock):
    versions = locked(lock)
    for requirement in REQUIRED + TOOLS:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_leaves_nothing_for_pip_to_choose(lock):
    assert (ROOT / lock).read_text().startswith("# Written by `make lock`")
    versions, reached, waiting = locked(lock), set(), [requirement.name for requirement in REQUIRED + TOOLS]
    while waiting:
        name = canonicalize_name(waiting.pop())
        assert name in versions, name
        if name not in reached:
            reached.add(name)
            waiting += required_by(name, versions[name])
    if all(version(name) == str(versions[name]) for name in ("transformer-lens", "transformers")):
        assert len(reached) > 100, "the packages of this lock are not those that are installed"


def required_by(name: str, wanted: Version) -> list[str]:
    """What that release requires on this machine; nothing is known of one that is not installed."""
    try:
        found = [Requirement(line) for line in requires(name) or []] if Version(version(name)) == wanted else []
    except PackageNotFoundError:
        return []
    # a torch for accelerators brings libraries that the locks, made for the CPU, leave to it
    here = [r.name for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [name for name in here if not name.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_locks_are_of_the_two_lines_of_transformer_lens_and_of_the_same_torch():
    three, four = (locked(name) for name in LOCKS)
    assert (three["transformer-lens"].major, four["transformer-lens"].major) == (3, 4)
    assert three["torch"] == four["torch"] == Version(re.search(r"TORCH = torch==(.+)", _makefile())[1])


def _makefile() -> str:
    return (ROOT / "Makefile").read_text()


def test_the_makefile_installs_every_extra():
    assert set(re.search(r"EXTRAS = (.+)", _makefile())[1].split(",")) == set(EXTRAS)


def imported(folder: Path) -> set[str]:
    """The top-level modules that a package imports, anywhere in it."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"lensdiff"}


def undeclared(modules: set[str]) -> set[str]:
    """Those of the modules that come from a package which pyproject.toml does not name."""
    packages, names = packages_distributions(), {canonicalize_name(r.name) for r in REQUIRED}
    return {m for m in modules if not names & {canonicalize_name(p) for p in [m, *packages.get(m, [])]}}


def test_everything_imported_is_declared():
    assert {"torch", "accelerate", "sklearn", "openai"} <= imported(ROOT / "lensdiff")
    assert undeclared(imported(ROOT / "lensdiff")) == set()
    assert undeclared({"yaml", "torch"}) == {"yaml"}, "a package that is installed and not declared would be seen"


def test_every_range_has_a_floor_and_the_floors_are_what_they_are_tested_with():
    command = [sys.executable, ".ci/floors.py"]
    floors = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {name: Version(floor) for name, floor in (line.split("==") for line in floors)}
    assert list(found) == [r.name for r in REQUIRED if r.name != "torch"]
    for requirement in REQUIRED:
        if requirement.name in found:
            assert f">={found[requirement.name]}" in str(requirement)
            assert requirement.specifier.contains(found[requirement.name])


def test_a_lock_is_written_from_pips_report():
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    packages = [("torch", "2.13.0+cpu"), ("lensdiff", "0.1.0"), ("Jinja2", "3.1.6"), ("huggingface_hub", "2.4.0")]
    report = {
        "install": [{"metadata": {"name": name, "version": version}} for name, version in packages],
        "environment": {"python_version": "3.11", "platform_system": "Linux"},
    }
    header, lines = module.lock(report, ["torch==2.13.0"]), ["huggingface-hub==2.4.0", "jinja2==3.1.6", "torch==2.13.0"]
    assert [line for line in header.splitlines() if not line.startswith("#")] == lines
    assert "torch==2.13.0, on Python 3.11, Linux" in header


def test_every_slow_test_is_there():
    named = (ROOT / "tests" / "slow.txt").read_text().split()
    assert named == sorted(set(named))
    for name in named:
        file, _, test = name.partition("::")
        text = (ROOT / file).read_text()
        assert not test or f"\ndef {test}(" in text, name
        assert file not in named or not test, f"{name}: its whole file is named"


def test_slow_tests_are_marked_and_no_others():
    named = {"tests/a.py", "tests/b.py::test_c"}
    marked = {
        nodeid: conftest.is_slow(nodeid, named)
        for nodeid in ("tests/a.py::test_x[1]", "tests/b.py::test_c", "tests/b.py::test_c[a::b]", "tests/b.py::test_cd")
    }
    assert list(marked.values()) == [True, True, True, False]


def test_every_promise_of_security_names_a_test_that_is_there():
    promised = (ROOT / "SECURITY.md").read_text(encoding="utf-8").split("## Promised")[1].split("## Not promised")[0]
    promises = promised.strip().split("\n- ")
    assert len(promises) > 5
    for promise in promises:
        named = re.findall(r"`(tests/[^`]+)`", promise)
        assert named, promise
        assert all((ROOT / name).exists() for name in named), named


# warnings


DEPRECATIONS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)


@pytest.mark.parametrize("category", [*DEPRECATIONS, UserWarning])
@pytest.mark.parametrize(
    ("module", "text", "fatal"),
    [
        ("lensdiff.models.view", "overflow", {UserWarning}),
        ("lensdiff", "overflow", {UserWarning}),
        ("experiments.toy_pair", "overflow", {UserWarning}),
        ("lensdifference", "overflow", set()),
        ("transformers.utils", "overflow", set()),
        # what a package says of a call of ours (stacklevel=2) counts as ours, and is still somebody else's deprecation
        ("lensdiff.models.view", "`past_key_values` is deprecated", set()),
        ("lensdiff.models.view", "lensdiff.old is deprecated", {*DEPRECATIONS, UserWarning}),
    ],
)
def test_a_warning_is_an_error_only_where_it_is_ours(module, text, fatal, category):
    scope = {"__name__": module, "text": text, "category": category}
    with warnings.catch_warnings(record=True) as shown:
        if category in fatal:
            with pytest.raises(category, match=text):
                exec("import warnings; warnings.warn(text, category)", scope)
        else:
            exec("import warnings; warnings.warn(text, category)", scope)
            assert [str(warning.message) for warning in shown] == [text]


def test_numpys_warning_of_a_division_in_our_code_is_an_error():
    scope = {"__name__": "lensdiff.stats"}
    with pytest.raises(RuntimeWarning, match="divide by zero"):
        exec("import numpy as np; np.array([1.0]) / np.array([0.0])", scope)
