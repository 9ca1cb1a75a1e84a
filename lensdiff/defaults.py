"""Defaults that functions, options and commands share, where a module that a command's help needs can have them."""

MAX_NEW_TOKENS = 300  # of an own response, as in the paper
KINDS = ("gradient-noise", "spectrum")  # of controls
