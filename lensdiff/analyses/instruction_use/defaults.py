"""Defaults of the analysis' functions and options."""

DRAWS = 8
READ_TOKENS = 64
TEXTS = ("base", "tuned", "reference")
