"""See what instruction tuning changed inside a language model: a base model against its tuned version."""

from typing import Any

import lazy_loader

# `__init__.pyi` lists the public names; each is imported when it is first asked for: `import lensdiff` stays instant.
_public, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _version() if name == "__version__" else _public(name)


def __dir__() -> list[str]:
    return sorted([*_names(), "__version__"])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lensdiff")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"
