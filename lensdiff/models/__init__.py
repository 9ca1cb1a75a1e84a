"""A checkpoint becomes a HookedTransformer or a TransformerBridge, two become a pair; one door leads into both."""

from lensdiff.models.costs import ControlCost, control_cost
from lensdiff.models.info import ModelInfo
from lensdiff.models.inside.points import Point, entering
from lensdiff.models.inside.wrappers import Model
from lensdiff.models.loading.load import load_model
from lensdiff.models.pair import ModelPair, load_pair
from lensdiff.models.validity import Validity, validity
from lensdiff.models.view import ModelView, view_of

__all__ = [
    "ControlCost",
    "Model",
    "ModelInfo",
    "ModelPair",
    "ModelView",
    "Point",
    "Validity",
    "control_cost",
    "entering",
    "load_model",
    "load_pair",
    "validity",
    "view_of",
]
