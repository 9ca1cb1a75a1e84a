"""Which words each head relates."""
