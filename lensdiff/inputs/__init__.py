"""What goes in beside the models: prompts, words and word vectors, the authors' released files."""

import lazy_loader

# `__init__.pyi` lists the names; each is imported when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
