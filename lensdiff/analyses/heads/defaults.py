"""Defaults of the analysis' functions and options."""

TOP_K = 100
THRESHOLD_WORDS = 3000
THRESHOLD_STD = 1.96
LAYERS_PER_GROUP = 8
TABLE_TOP = 20
