"""What the libraries below stumble over in a file becomes one sentence; only their calls stand behind this door."""

import pickle
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from lensdiff.results import InputError
from lensdiff.results.memory import is_lack_of_memory

# what the libraries raise at a file with something else in it than they expect; an InputError is one of them, too
LOADING_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError),
    *(SafetensorError, StrictDataclassError, pickle.UnpicklingError, re.error),
)
NAMED = 3  # so many tensors of a list are named in an error
OTHERS_CODE = "trust_remote_code"  # what transformers speaks of where it is told not to run a checkpoint's own code


@contextmanager
def at_the_door(what: str) -> Iterator[None]:
    """Make one sentence, which begins with `what`, of whatever a library stumbles over in a file.

    Only a library's calls stand in it: what our own code stumbles over is no fault of a file. A lack of memory says
    nothing about the file, and passes as it is.

    Raises:
        InputError: as a library said.
    """
    try:
        yield
    except LOADING_ERRORS as error:
        if isinstance(error, InputError) or is_lack_of_memory(error):
            raise
        raise InputError(f"{what}: {first_line(error)}") from error


def few(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more


def first_line(error: BaseException) -> str:
    """Return what an error says first, as words of a sentence also where it has none of its own."""
    if OTHERS_CODE in str(error):
        return "it brings code of its own (auto_map), which is never run: expected what transformers itself can read"
    said, *more = str(error).strip().split("\n")[:2]
    if said.endswith(":") and more:  # "Validation error for field 'x':" says what is wrong in the next line
        said = f"{said} {re.sub(r'^[A-Za-z]+Error: ', '', more[0].strip())}"
    if isinstance(error, KeyError):
        return f"{said} is not known" if said else "a name is not known"
    return said or re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
