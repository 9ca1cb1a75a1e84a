"""Defaults of the analysis' functions and options."""

READ_TOKENS = 64
