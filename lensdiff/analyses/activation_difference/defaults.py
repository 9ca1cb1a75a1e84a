"""Defaults of the analysis' functions and options."""

POSITIONS = 5
WORDS = 10  # of each sign that are kept of a place
SCALES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)  # of a patchscope
AMOUNTS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the difference that steers
EFFECT_TEXTS, EFFECT_TOKENS = 32, 32  # that interventions are measured on
DRAWS = 8  # of random directions
EFFECT_DRAWS = 19  # of those beside all interventions at one place: what a band takes
EFFECT_WORDS = 3  # most probable ones that are kept of each scale there
