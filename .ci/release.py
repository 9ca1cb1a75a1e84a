"""Whether a version can be released: the tag, pyproject.toml, CHANGELOG.md and CITATION.cff say the same.

python .ci/release.py v1.2.3     prints the version's notes, or says in a sentence what has to be mended (exit code 1)
"""

import re
import sys
import tomllib
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GROUPS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


class Section(NamedTuple):
    """A version of the changelog: its name, its date (none of what is not released), and the text of each group."""

    version: str
    released: date | None
    groups: dict[str, str]


def changelog(text: str) -> list[Section]:
    """Read a changelog in the form of Keep a Changelog, newest first.

    Raises ValueError with the line that is not of the form.
    """
    title, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    if not title.startswith("# Changelog\n"):
        raise ValueError("the first line has to be '# Changelog'")
    sections = [_section(*part.split("\n", 1)) for part in parts]
    names = [section.version for section in sections]
    if names[:1] != ["Unreleased"] or "Unreleased" in names[1:]:
        raise ValueError(f"[Unreleased] has to be the first version, and there once, got {names}")
    numbers = [tuple(map(int, name.split("."))) for name in names[1:]]
    if any(newer <= older for newer, older in pairwise(numbers)):
        raise ValueError(f"versions have to stand newest first, got {names}")
    return sections


def _section(heading: str, body: str) -> Section:
    found = re.fullmatch(r"\[(Unreleased)\]|\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading)
    if not found:
        raise ValueError(f"a version has to read '[Unreleased]' or '[1.2.3] - 2026-01-31', got {heading!r}")
    _, *parts = re.split(r"^### (.+)\n", body, flags=re.MULTILINE)
    names, texts = parts[::2], [text.strip() for text in parts[1::2]]
    for name, text in zip(names, texts, strict=True):
        if name not in GROUPS or names.count(name) > 1:
            raise ValueError(f"{heading}: a group is one of {', '.join(GROUPS)}, each once, got {name!r}")
        _check_entries(f"{heading}, {name}", text)
    released = date.fromisoformat(found[3]) if found[3] else None
    return Section(found[1] or found[2], released, dict(zip(names, texts, strict=True)))


def _check_entries(where: str, text: str) -> None:
    """A group holds entries ('- ...', further lines indented), with topics ('#### ...') between them."""
    lines = [line for line in text.splitlines() if line]
    for line in lines:
        if not re.match(r"- \S|  \S|#### \S", line):
            raise ValueError(
                f"{where}: a line has to begin an entry ('- '), go on with one ('  ') or name a topic, got {line!r}"
            )
    last = [line for line in lines if not line.startswith("  ")][-1:]
    if not last or last[0].startswith("#"):
        raise ValueError(f"{where} has no entry at its end")


def notes(tag: str, project: str, log: str, citation: str) -> str:
    """Return what a tag's version brings, from the texts of the three files.

    Raises ValueError where they do not say the same.
    """
    version = tomllib.loads(project)["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(f"the tag of version {version} is v{version}, got {tag}")
    found = {section.version: section for section in changelog(log)}
    if version not in found:
        raise ValueError(f"CHANGELOG.md has no section [{version}]: its entries still stand under [Unreleased]")
    for key, wanted in (("version", version), ("date-released", str(found[version].released))):
        stated = re.search(rf"^{key}: *['\"]?([^'\"\n]+)", citation, flags=re.MULTILINE)
        if not stated or stated[1] != wanted:
            raise ValueError(f"CITATION.cff has to say '{key}: {wanted}', got {stated[0] if stated else 'none'}")
    return "\n\n".join(f"### {name}\n{text}" for name, text in found[version].groups.items())


if __name__ == "__main__":
    files = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")]
    try:
        sys.stdout.write(notes(sys.argv[1], *files) + "\n")
    except ValueError as error:
        sys.exit(f"release: {error}")
