"""What every result is: a frozen value with its provenance, kept on disk without pickle. No model, no picture."""

import lazy_loader

# `__init__.pyi` lists the names; each is imported when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
