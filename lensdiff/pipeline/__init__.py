"""A config becomes every analysis, a results directory and a report."""

from lensdiff.pipeline.whole import run

__all__ = ["run"]
