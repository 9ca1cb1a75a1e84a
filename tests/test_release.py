"""What a release needs: a changelog in its form, one version everywhere, a licence for all that ships."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import lensdiff

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
release = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(release)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
LOG = """\
# Changelog

## [Unreleased]
### Fixed
- A thing.

## [0.2.0] - 2027-02-01
A sentence.

### Added
#### Models
- One,
  on two lines.
- Two.

### Removed
- Three.

## [0.1.0] - 2026-12-24
### Added
- Four.
"""


def test_the_changelog_has_its_form():
    sections = release.changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert sum(text.count("\n- ") for section in sections for text in section.groups.values()) > 50


def test_a_changelog_is_read_by_version_and_group():
    unreleased, newer, older = release.changelog(LOG)
    assert unreleased == ("Unreleased", None, {"Fixed": "- A thing."})
    assert newer.version == "0.2.0"
    assert newer.released == date(2027, 2, 1)
    assert newer.groups == {"Added": "#### Models\n- One,\n  on two lines.\n- Two.", "Removed": "- Three."}
    assert older == ("0.1.0", date(2026, 12, 24), {"Added": "- Four."})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Changelog", "# Changes", "first line"),
        ("## [Unreleased]", "## [0.3.0] - 2027-03-01", "has to be the first version"),
        ("[0.1.0] - 2026-12-24", "[Unreleased]", "and there once"),
        ("[0.1.0] - 2026-12-24", "[0.2.0] - 2026-12-24", "newest first"),
        ("[0.1.0] - 2026-12-24", "[0.10.0] - 2026-12-24", "newest first"),
        ("[0.1.0] - 2026-12-24", "[0.1.0]", r"got '\[0.1.0\]'"),
        ("[0.1.0] - 2026-12-24", "0.1.0 (unreleased)", r"got '0.1.0 \(unreleased\)'"),
        ("[0.1.0] - 2026-12-24", "[0.1.0] - 2026-13-24", "month must be in"),
        ("### Removed", "### Improved", "got 'Improved'"),
        ("### Removed", "### Added", "each once, got 'Added'"),
        ("- Three.", "Three.", "got 'Three.'"),
        ("- Three.", "", "Removed has no entry"),
        ("- Three.", "#### Models", "Removed has no entry"),
    ],
)
def test_a_changelog_of_another_form_is_refused(old, new, message):
    assert old in LOG
    with pytest.raises(ValueError, match=message):
        release.changelog(LOG.replace(old, new))


# one version


def test_the_version_is_one_everywhere():
    stated = PROJECT["version"]
    assert lensdiff.__version__ == stated
    command = [sys.executable, "-m", "lensdiff", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"lensdiff {stated}\n"
    assert CITATION["version"] == stated
    assert not re.search(r"__version__ *=", (ROOT / "lensdiff" / "__init__.py").read_text()), "a second place"


def test_the_citation_has_the_date_of_the_changelog():
    sections = release.changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    dates = {section.version: section.released for section in sections}
    assert CITATION.get("date-released") == dates.get(PROJECT["version"])


PROJECT_TOML, CITED = '[project]\nversion = "0.2.0"', "version: 0.2.0\ndate-released: 2027-02-01\n"


@pytest.mark.parametrize("cited", [CITED, "version: '0.2.0'\ndate-released: \"2027-02-01\"\n"])
def test_the_notes_of_a_release_are_its_section(cited):
    found = release.notes("v0.2.0", PROJECT_TOML, LOG, cited)
    assert found == "### Added\n#### Models\n- One,\n  on two lines.\n- Two.\n\n### Removed\n- Three."


@pytest.mark.parametrize(
    ("tag", "project", "cited", "message"),
    [
        ("v0.2.1", PROJECT_TOML, CITED, "the tag of version 0.2.0 is v0.2.0, got v0.2.1"),
        ("0.2.0", PROJECT_TOML, CITED, "is v0.2.0, got 0.2.0"),
        ("v0.3.0", PROJECT_TOML.replace("0.2", "0.3"), CITED, r"no section \[0.3.0\]"),
        ("v0.2.0", PROJECT_TOML, CITED.replace("0.2", "0.1"), "'version: 0.2.0', got version: 0.1.0"),
        ("v0.2.0", PROJECT_TOML, "version: 0.2.0\n", "'date-released: 2027-02-01', got none"),
        ("v0.2.0", PROJECT_TOML, CITED.replace("-02-01", "-02-02"), "got date-released: 2027-02-02"),
    ],
)
def test_a_release_whose_files_disagree_is_refused(tag, project, cited, message):
    with pytest.raises(ValueError, match=message):
        release.notes(tag, project, LOG, cited)


def test_the_command_says_what_has_to_be_mended():
    command = [sys.executable, str(ROOT / ".ci" / "release.py"), "v99.0.0"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == f"release: the tag of version {PROJECT['version']} is v{PROJECT['version']}, got v99.0.0\n"


# licences

CODE = {".py", ".pyi", ".js", ".css", ".j2", ".typed"}


def shipped_data() -> list[str]:
    """The files of the package that are no code."""
    files = [path for path in (ROOT / "lensdiff").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path.relative_to(ROOT).as_posix() for path in files if path.suffix not in CODE)


def noticed() -> list[str]:
    """The files that NOTICES.md has an entry for; one may end in an asterisk."""
    return re.findall(r"^\| `([^`]+)` \|", (ROOT / "NOTICES.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_file_that_ships_beside_the_code_has_its_notice():
    data, entries = shipped_data(), noticed()
    assert len(data) > 15
    for path in data:
        assert sum(Path(path).match(entry) for entry in entries) == 1, path
    for entry in entries:
        assert any(Path(path).match(entry) for path in data), f"{entry} ships no more"


def test_what_is_made_of_wordnet_names_its_licence():
    rows = re.findall(r"^\| `([^`]+)` \|([^|]+)\|([^|]+)\|$", (ROOT / "NOTICES.md").read_text(), flags=re.MULTILINE)
    stated = {path for path, made, under in rows if "WordNet licence" in under}
    assert stated == {path for path, made, under in rows if "WordNet 3.0" in made and "WORDNET_LICENSE" not in path}
    for path in shipped_data():
        if path.endswith((".tsv", ".txt")):
            assert "From WordNet 3.0, Copyright 2006 by Princeton University" in (ROOT / path).read_text()[:300]
            assert path in stated


def test_the_licences_go_with_the_package():
    assert set(PROJECT["license-files"]) == {"LICENSE", "NOTICES.md", "lensdiff/inputs/data/WORDNET_LICENSE"}
    words = [
        (ROOT / "lensdiff" / "inputs" / "data" / folder / "WORDNET_LICENSE").read_text().split()
        for folder in (".", "toy_pair")
    ]
    assert words[0] == words[1]
    assert "Princeton University" in " ".join(words[0])


# what the repository's host reads: `make lint` has the workflows checked by zizmor

GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def workflow(name: str) -> dict[str, Any]:
    # yaml reads the key "on" as true
    return {str(key): value for key, value in yaml.safe_load((GITHUB / "workflows" / name).read_text()).items()}


@pytest.mark.parametrize("name", ["test.yml", "release.yml"])
def test_a_workflow_runs_what_a_developer_runs(name):
    check = workflow(name)["jobs"]["check"]
    assert check["container"]["image"].startswith(f"python:{PROJECT['requires-python'].removeprefix('>=')}-")
    commands = [step["run"] for step in check["steps"] if "run" in step]
    assert commands[-1] == ".ci/run"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make check")


def test_only_what_was_checked_is_published_and_only_with_a_token_of_the_moment():
    jobs = workflow("release.yml")["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "check": None,
        "publish": "check",
        "site": "publish",
    }
    assert workflow("release.yml")["permissions"] == workflow("test.yml")["permissions"] == {}
    assert {name: set(job["permissions"]) for name, job in jobs.items()} == {
        "check": {"contents"},
        "publish": {"id-token"},
        "site": {"pages", "id-token"},
    }
    assert not [path for path in GITHUB.rglob("*.yml") if "secrets." in path.read_text()]


@pytest.mark.parametrize(
    ("tag", "released"), [("v0.2.0", True), ("v10.20.30", True), ("v0.2", False), ("0.2.0", False)]
)
def test_a_tag_starts_a_release_where_it_is_a_version(tag, released):
    (pattern,) = workflow("release.yml")["True"]["push"]["tags"]
    assert bool(re.fullmatch(pattern.replace(".", r"\."), tag)) == released


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_in_fields_that_there_are(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in form["body"]} <= FIELDS
    assert len({field["id"] for field in asked}) == len(asked) > 2
    assert all(field["attributes"]["label"] for field in asked if field["type"] != "checkboxes")
    for named in re.findall(r"(?:docs|tests)/[\w./-]+\w", path.read_text()):
        assert (ROOT / named).exists(), named


def test_the_forms_are_for_a_failure_a_wrong_number_and_a_family():
    assert [path.stem for path in FORMS] == ["bug", "model-family", "wrong-number"]


# the texts beside the code


def links_of(name: str) -> list[str]:
    """The files that a text of the top folder leads to."""
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    return [link.split("#")[0] for link in links if "://" not in link]


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "NOTICES.md"])
def test_a_link_leads_somewhere(name):
    assert [link for link in links_of(name) if not (ROOT / link).exists()] == []


def test_the_readme_leads_to_what_stands_beside_it():
    assert {"CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "NOTICES.md", "CITATION.cff"} <= set(
        links_of("README.md")
    )


RECORDED = (ROOT / "experiments" / "benchmarks" / "README.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_tells_what_an_attribution_takes_as_it_is_recorded():
    told = re.findall(
        r"^\| `attribute`.* ([\d]+ x [\d]+) tokens .*\| ([\d.]+) s; .*?([\d.]+) times", README, flags=re.MULTILINE
    )
    assert len(told) == 2
    for size, seconds, times in told:
        assert f"| {size} | {seconds} s | {times} x |" in RECORDED


def test_the_readme_tells_what_a_gpu_takes_as_it_is_recorded():
    told = re.findall(r"^\| `(\w+)`, SmolLM2-135M's shape.*\| ([\d.]+) s, ([\d.]+) s \|$", README, flags=re.MULTILINE)
    assert [name for name, *_ in told] == ["attribute", "instruction_use"]
    for name, *seconds in told:
        shaped = RECORDED.split("Random weights of SmolLM2-135M's shape")[1]
        row = re.search(rf"^\| {name}\b.*\| ([\d.]+) \| ([\d.]+) \| [\d.]+ \|$", shaped, flags=re.MULTILINE)
        assert row
        assert [f"{float(time):.1f}" for time in row.groups()] == seconds
