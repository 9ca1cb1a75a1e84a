"""What goes in beside the models: prompts, words and word vectors, the authors' released files."""

from lensdiff.inputs.prompts import Prompt, load_prompts
from lensdiff.inputs.spans import token_mask

__all__ = ["Prompt", "load_prompts", "token_mask"]
