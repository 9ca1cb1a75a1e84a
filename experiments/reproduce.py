"""Every experiment, one after the other in one process: on a pair, and on the published material where it is present.

python -m experiments.reproduce [--published DIR] [options of the experiments]
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from experiments.common import HERE, start
from lensdiff.cli.output import write
from lensdiff.results import InputError

SKIPPED = "The published material is skipped: give a clone of the authors' repository (make reproduce PAPER=DIR)."


def claims() -> list[str]:
    """Return the names of the experiments: every folder with a config."""
    return sorted(path.parent.name for path in HERE.glob("*/config.toml"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything; what a clone does not hold is said, and the rest goes on."""
    given = list(sys.argv[1:] if argv is None else argv)
    clone = given.pop(given.index("--published") + 1) if "--published" in given else ""
    given = [word for word in given if word != "--published"]
    for claim in claims():
        write(f"\n== {claim}")
        _module(claim).main(given)
    if not clone:
        write(f"\n{SKIPPED}")
        return
    if not Path(clone).is_dir():
        raise InputError(f"no folder at {clone}, expected a clone of the authors' repository")
    for claim in claims():
        if not getattr(_module(claim), "PUBLISHED", True):
            continue
        write(f"\n== {claim}, published material")
        try:
            _module(claim).main([*given, "--published", clone])
        except InputError as error:  # a clone may hold a part of the material alone
            write(f"not there: {error}")


def _module(claim: str) -> ModuleType:
    return import_module(f"experiments.{claim}.run")


if __name__ == "__main__":
    start(main)
