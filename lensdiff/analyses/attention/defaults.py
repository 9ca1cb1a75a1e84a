"""Defaults of the analysis' functions and options."""

SINK = "apart"
KEPT_PROMPTS = 12
