"""The inside of one model: its weights and its forward passes, in one meaning whichever wrapper holds them."""

from lensdiff.models.inside.forward import Forward
from lensdiff.models.inside.points import Point
from lensdiff.models.inside.weights import Weights

__all__ = ["Forward", "Point", "Weights"]
