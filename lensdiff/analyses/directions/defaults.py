"""Defaults of the analysis' functions and options."""

FOLDS = 5
PERMUTATIONS = 99
DRAWS = 19  # random vectors beside an effect: what a band takes
READ_TOKENS = 32
