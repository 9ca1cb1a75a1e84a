"""The whole way: a config becomes a results directory and its report."""

from pathlib import Path
from typing import Any

from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.listener import Listener
from lensdiff.pipeline.report import Report


def run(config: RunConfig | dict[str, Any] | str | Path, *, listener: Listener | None = None) -> Report:
    """Do every analysis that a config asks for, and return the report, which is also written to `report.html`.

    Args:
        config: a config, a mapping with its keys, or the path of a TOML file.
        listener: is told what happens; by default nobody.

    Raises:
        InputError, OSError: as `execute`.
    """
    report = Report(execute(config, listener=listener, estimate=listener is not None))
    report.save()
    return report
