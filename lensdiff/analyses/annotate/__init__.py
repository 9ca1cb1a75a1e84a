"""What components mean, asked of a chat model."""
