"""A checkpoint becomes a HookedTransformer or a TransformerBridge, two become a pair; one door leads into both."""

import lazy_loader

# `__init__.pyi` lists the names; each is imported when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
