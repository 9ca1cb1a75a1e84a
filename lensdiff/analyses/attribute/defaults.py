"""Defaults of the analysis' functions and options."""

TARGET = "probability"
METHOD = "auto"
DELETION_DRAWS = 8
PATH = "point"
BASELINE = "mean"  # from zero, models that normalise what they read are far from complete: see `paths`
NODES = 32
CURVE_POINTS = 6  # of a curve of removed tokens
CURVE_DRAWS = 19  # random orders: what a band needs
CURVE_PROMPTS = 4  # of a run, whose tokens are removed
CURVE_TOKENS = 32  # of their responses that are read
