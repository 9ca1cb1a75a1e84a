"""Defaults of the analysis' functions and options."""

MEASURES = ("instruction_use", "attention", "density", "output_shift", "knock_out")
DRAWS = 8
MAX_PROMPTS = 24
