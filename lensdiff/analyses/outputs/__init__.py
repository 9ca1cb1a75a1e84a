"""Which response tokens tuning changed."""
