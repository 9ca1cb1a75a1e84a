from .masks import token_mask as token_mask
from .prompts import Prompt as Prompt
from .prompts import load_prompts as load_prompts
from .published import Published as Published
from .published import load_published as load_published
