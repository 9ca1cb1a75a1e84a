"""Defaults of the analysis' functions and options."""

AMOUNTS = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
PART_AMOUNTS = (0.5,)  # beside 0 and 1
PARTS = ("not W_out", "attention", "mlp", "embedding")  # beside all and W_out
READ_TOKENS = 64
