"""How much of the values' change is a rotation."""
