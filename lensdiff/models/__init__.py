"""A checkpoint becomes a HookedTransformer or a TransformerBridge, two become a pair; one view reads both."""

from lensdiff.models.loading import load_model
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.view import Model, ModelView, view_of
from lensdiff.models.weights import ModelInfo

__all__ = ["Model", "ModelInfo", "ModelPair", "ModelView", "load_model", "load_pair", "view_of"]
