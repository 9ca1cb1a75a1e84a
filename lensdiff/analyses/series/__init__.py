"""One number along a list of models: checkpoints of a training, base, SFT and DPO, doses."""
