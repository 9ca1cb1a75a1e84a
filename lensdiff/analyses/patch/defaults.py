"""Defaults of the analysis' functions and options."""

COMPONENTS = ("head", "mlp")
METRIC = "log_prob"
LEAST_TOTAL = 0.01  # of the metric's unit: a smaller difference of the two models is about 0, and has no shares
MAX_BYTES = 2**28  # of activations and logits at a time
RERUN = 20  # rows a direction that are run exactly after an estimate
DRAWS = 19  # random sets of heads
PROMPTS = 4
READ_TOKENS = 32
SET_SHARE = 0.1  # of the heads, that are patched together
SET_LEAST = 5
