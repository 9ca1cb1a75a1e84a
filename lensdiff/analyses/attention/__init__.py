"""Where each head looks, and how tuning moved that."""
