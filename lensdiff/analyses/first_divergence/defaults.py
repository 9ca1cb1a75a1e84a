"""Defaults of the analysis' functions and options."""

READ_TOKENS = 64
DRAWS = 8
HEADLINE = 0.6  # of the layers
