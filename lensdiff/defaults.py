"""Defaults that functions, options and commands share, where a module that a command's help needs can have them."""

MAX_NEW_TOKENS = 300  # of an own response, as in the paper
KINDS = ("gradient-noise", "spectrum")  # of controls
TRAINING_STEPS, TRAINING_RATE, TRAINING_BATCH = 40, 2e-4, 8  # of a control that is trained
SIDES = ("base", "tuned")  # of a pair
RAW, CHAT = "raw", "chat"  # how prompts are rendered
MOST = 1_000_000  # of anything that is counted: more would fill a memory before it is of use
LARGEST_SEED = 2**63 - 1  # what the generators of torch and numpy both take
