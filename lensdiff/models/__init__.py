"""A checkpoint becomes a HookedTransformer or a TransformerBridge, two become a pair; one door leads into both."""

from lensdiff.models.info import ModelInfo
from lensdiff.models.loading import load_model
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.points import Point
from lensdiff.models.view import ModelView, view_of
from lensdiff.models.wrappers import Model

__all__ = ["Model", "ModelInfo", "ModelPair", "ModelView", "Point", "load_model", "load_pair", "view_of"]
