"""What goes in beside the models: prompts with their instruction, word lists and word vectors, the authors' released files."""
