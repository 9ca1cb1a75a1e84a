"""The one error a user can cause."""


class InputError(ValueError):
    """Unusable input: one sentence that names what was given, what was expected and what is available."""


class NotThere(InputError):
    """A results directory holds nothing of that name: what is there and damaged is no such thing."""
