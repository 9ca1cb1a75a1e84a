"""See what instruction tuning changed inside a language model."""
