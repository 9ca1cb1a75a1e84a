"""The analyses: kernels on tensors, one result class and one entry point each. None of them asks which wrapper holds
a model."""
