"""Defaults of the analysis' functions and options."""

FOLDS = 5
PERMUTATIONS = 99
FEWEST_PERMUTATIONS = 19  # what a band takes
DRAWS = 19  # random vectors beside an effect: what a band takes
READ_TOKENS = 32
