"""What every result is: a frozen value with its provenance, kept on disk without pickle. No model, no picture."""

from lensdiff.results.diff import Diff
from lensdiff.results.errors import InputError
from lensdiff.results.manifest import Manifest, StepState
from lensdiff.results.many import Results
from lensdiff.results.provenance import Control, ControlModel, Provenance
from lensdiff.results.result import Result
from lensdiff.results.store import ResultStore

__all__ = [
    "Control",
    "ControlModel",
    "Diff",
    "InputError",
    "Manifest",
    "Provenance",
    "Result",
    "ResultStore",
    "Results",
    "StepState",
]
