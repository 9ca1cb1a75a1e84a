"""Where in the prompt importance lies."""
