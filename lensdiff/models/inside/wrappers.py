"""Which wrapper holds a model."""

from lensdiff.models.inside.bridge import BridgeWrapper
from lensdiff.models.inside.hooked import HookedWrapper
from lensdiff.models.inside.wrapper import HookedTransformer, Model, Wrapper
from lensdiff.results import InputError

__all__ = ["HookedTransformer", "Model", "Wrapper", "is_bridge", "is_hooked", "wrapper_of"]


def wrapper_of(model: Model) -> Wrapper:
    """Return the raw access to a HookedTransformer or a TransformerBridge.

    Raises:
        InputError: `model` is neither.
    """
    if hasattr(type(model), "tuned"):  # a ModelPair, which cannot be imported here
        raise InputError("expected one model, got a pair: give pair.base or pair.tuned, or pair.compare this analysis")
    if not (is_hooked(model) or is_bridge(model)):
        raise InputError(
            f"expected a HookedTransformer or a TransformerBridge, got {type(model).__name__}; "
            "load_model makes one of any other model"
        )
    return (HookedWrapper if is_hooked(model) else BridgeWrapper)(model)


def is_hooked(model: object) -> bool:
    """Return whether a model is a HookedTransformer (false on versions that have none)."""
    return HookedTransformer is not None and isinstance(model, HookedTransformer)


def is_bridge(model: object) -> bool:
    """Return whether a model is a TransformerBridge."""
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(model, TransformerBridge)
