"""Write a lock: every package, with its version, that the newest releases in the ranges come to.

Usage: python .ci/lock.py FILE REQUIREMENT...     (`make lock` writes both files)
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

HEADER = """\
# Written by `make lock`, not by hand: what pip resolves lensdiff, its extras and dev-requirements.txt to,
# with {given}, on {platform}. Used as pip's constraints.
"""


def resolve(requirements: list[str]) -> dict[str, object]:
    """Return pip's report on what it would install into an empty environment; nothing is installed."""
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [*requirements, "-r", "dev-requirements.txt", f".[{','.join(extras)}]"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    return json.loads(subprocess.run([*pip, *wanted], check=True, stdout=subprocess.PIPE, text=True).stdout)


def lock(report: dict[str, object], requirements: list[str]) -> str:
    """Return the text of a lock: a header, then `name==version` in alphabetical order, without lensdiff itself."""
    packages = [item["metadata"] for item in report["install"]]
    # a build's own suffix (2.13.0+cpu) is left out: elsewhere the same release has another one
    versions = {package["name"].lower(): package["version"].split("+")[0] for package in packages}
    lines = [f"{name.replace('_', '-')}=={versions[name]}" for name in sorted(versions) if name != "lensdiff"]
    environment = report["environment"]
    platform = f"Python {environment['python_version']}, {environment['platform_system']}"
    return HEADER.format(given=" and ".join(requirements), platform=platform) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    file, *requirements = sys.argv[1:]
    Path(file).write_text(lock(resolve(requirements), requirements))
