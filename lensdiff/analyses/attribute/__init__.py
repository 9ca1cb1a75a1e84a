"""Which prompt words drive the response."""
