"""Registers what draws the analysis' results."""

from lensdiff.analyses.residual_stream.view_curves import show_lens_shift
from lensdiff.analyses.residual_stream.view_lens import show_lens, show_lenses
from lensdiff.analyses.residual_stream.view_parts import show_attribution, show_parts_shift

__all__ = ["show_attribution", "show_lens", "show_lens_shift", "show_lenses", "show_parts_shift"]
