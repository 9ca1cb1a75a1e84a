"""How well responses follow their instructions, asked of a chat model."""
