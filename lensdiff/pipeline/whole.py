"""The whole way: a config becomes a results directory and its report."""

import warnings
from pathlib import Path
from typing import Any

from lensdiff.pipeline.config import RunConfig
from lensdiff.pipeline.execute import execute
from lensdiff.pipeline.listener import Listener, watched
from lensdiff.pipeline.report import Report
from lensdiff.pipeline.shortfall import failed, not_possible


def run(config: RunConfig | dict[str, Any] | str | Path, *, listener: Listener | None = None) -> Report:
    """Do every analysis that a config asks for, and return the report, which is also written to `report.html`.

    Warns of what failed or was not possible, unless a listener is told.

    Args:
        config: a config, a mapping with its keys, or the path of a TOML file.
        listener: is told what happens; by default a bar, where somebody sees it (see `models.progress`).

    Returns:
        `Report` of the results directory (`summary()`, `html()`, `store`).

    Raises:
        InputError, OSError: as `execute`.
    """
    with watched() as shown:
        report = Report(execute(config, listener=listener or shown, estimate=listener is not None))
    report.save()
    if listener is None:
        steps = report.store.manifest.steps
        for line in (*not_possible(report.store, steps), *failed(report.store, steps)):
            warnings.warn(line, stacklevel=2)
    return report
