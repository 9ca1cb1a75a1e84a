"""See what instruction tuning changed inside a language model: a base model against its tuned version."""

import lazy_loader

# `__init__.pyi` lists the public names; each is imported when it is first asked for: `import lensdiff` stays instant.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
