"""How far the weights moved."""
