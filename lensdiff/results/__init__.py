"""What every result is: a frozen value with its provenance, kept on disk without pickle. Knows no model and no picture."""

from lensdiff.results.diff import Diff
from lensdiff.results.errors import InputError
from lensdiff.results.provenance import Provenance
from lensdiff.results.result import Result

__all__ = ["Diff", "InputError", "Provenance", "Result"]
