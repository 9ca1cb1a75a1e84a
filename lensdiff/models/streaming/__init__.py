"""Weights that come layer by layer from a checkpoint's files; no whole model is built."""
