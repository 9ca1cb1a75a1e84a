"""Defaults of the analysis' functions and options."""

DRAWS = 8
READ_TOKENS = 32
WINDOWS = 6  # into which the layers are cut for a sweep
SWEEP_DRAWS = 1  # that stands beside each window of a run: its band is over prompts
