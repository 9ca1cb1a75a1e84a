"""Passes of HookedTransformers of plain blocks, made of their own parts where that saves most of the work.

`blocks` says which models these are; `branching` reads texts that begin alike, `stepping` adds a token to each text.
"""
