"""Every experiment, one after the other in one process: on a pair, and on the published material where it is present.

python -m experiments.reproduce [--published DIR] [options of the experiments]
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from experiments.common import HERE, start
from lensdiff.cli.output import write
from lensdiff.results import InputError

SKIPPED = "The published material is skipped: give a clone of the authors' repository (make reproduce PAPER=DIR)."


def claims() -> list[str]:
    """Return the names of the experiments: every folder with a config."""
    return sorted(path.parent.name for path in HERE.glob("*/config.toml"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything; what cannot be done is said, and the rest goes on."""
    given = list(sys.argv[1:] if argv is None else argv)
    clone = given.pop(given.index("--published") + 1) if "--published" in given else ""
    given = [word for word in given if word != "--published"]
    for claim in claims():
        _one(claim, given)
    if not clone:
        write(f"\n{SKIPPED}")
        return
    if not Path(clone).is_dir():
        raise InputError(f"no folder at {clone}, expected a clone of the authors' repository")
    for claim in claims():
        module = import_module(f"experiments.{claim}.run")
        if getattr(module, "PUBLISHED", True):
            _one(claim, [*given, "--published", clone])


def _one(claim: str, argv: list[str]) -> None:
    write(f"\n== {claim} {' '.join(argv)}".rstrip())
    try:
        import_module(f"experiments.{claim}.run").main(argv)
    except InputError as error:
        write(f"not done: {error}")


if __name__ == "__main__":
    start(main)
