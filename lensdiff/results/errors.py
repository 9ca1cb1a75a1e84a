"""The one error a user can cause."""


class InputError(ValueError):
    """Unusable input: one sentence that names what was given, what was expected and what is available."""
