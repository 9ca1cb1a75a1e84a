"""Defaults of the analysis' functions and options."""

TARGET = "probability"
METHOD = "auto"
DELETION_DRAWS = 8
