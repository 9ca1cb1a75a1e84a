"""From a hub name, a folder, a GGUF file, an adapter or an object to a wrapped model that was held against it."""

import lazy_loader

# `__init__.pyi` lists the names; each is imported when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
