"""How far a response depends on its instruction."""
