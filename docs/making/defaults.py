"""Defaults as they are: a signature that names a constant of its module shows the constant's value."""

import importlib
from typing import Any

import griffe

SHOWN = (int, float, str, tuple, bool, type(None))


class Defaults(griffe.Extension):
    """Puts the values of constants in the place of their names."""

    def on_function(self, *, func: griffe.Function, **options: Any) -> None:
        """Look at every parameter of a function."""
        for parameter in func.parameters:
            if isinstance(parameter.default, griffe.ExprName) and parameter.default.name.isupper():
                module = importlib.import_module(func.module.path)
                value = getattr(module, parameter.default.name, ...)
                if isinstance(value, SHOWN):
                    parameter.default = repr(value)
