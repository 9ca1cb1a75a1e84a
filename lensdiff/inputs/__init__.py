"""What goes in beside the models: prompts, words and word vectors, the authors' released files."""

from lensdiff.inputs.prompts import Prompt, load_prompts
from lensdiff.inputs.published import Published, load_published
from lensdiff.inputs.spans import token_mask

__all__ = ["Prompt", "Published", "load_prompts", "load_published", "token_mask"]
