"""Defaults of the analysis' functions and options."""

READ_SIDES = ("value",)
COMPONENTS = 300
TOP_WORDS = 50
RANKS = (1, 5, 10, 20, 50)
