"""Defaults of the analysis' functions and options."""

TARGET = "probability"
METHOD = "auto"
DELETION_DRAWS = 8
PATH = "point"
BASELINE = "mean"  # from zero, models that normalise what they read are far from complete: see `paths`
NODES = 32
