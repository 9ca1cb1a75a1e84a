"""A chat model rates responses: does a response do what its prompt asks? Ratings of Table 1 where no person gave them.

    1 does not follow the instruction    2 partly    3 mostly    4 fully

One question per response, through any OpenAI-compatible server, every answer kept on disk by content (see
`lensdiff.inputs.chat`). An answer that is refused or does not hold the JSON that was asked for is no rating (0) with
its reason; nothing is guessed. The rater sees prompt and response alone: neither which model wrote it, nor any score.

A rater is a model with its own taste, and prefers long answers: read Table 1 at equal length beside it, and compare
some of its ratings with one's own. Reference: Wu et al., NAACL 2024, section 4 (ratings there are of people).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lensdiff.inputs.answer_json import object_in
from lensdiff.inputs.chat import Answer, Chat
from lensdiff.inputs.prompts import Prompt
from lensdiff.inputs.ratings import HIGHEST, UNFOLLOWED

SYSTEM = "You judge whether a text does what it was asked to do. You answer with JSON alone."
QUESTION = """Someone wrote this prompt:

<prompt>
{prompt}
</prompt>

A language model continued it with this response:

<response>
{response}
</response>

How far does the response do what the prompt asks? Judge whether the instruction is followed, not whether the facts are
right or the style is pleasant. 1: it does not follow the instruction. 2: it follows a part of it. 3: it follows it with
small faults. 4: it follows it fully. Answer with {{"rating": 1, 2, 3 or 4}}."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"rating": {"type": "integer", "enum": list(range(UNFOLLOWED, HIGHEST + 1))}},
    "required": ["rating"],
    "additionalProperties": False,
}
NO_RATING = 0


def rate(chat: Chat, prompts: Sequence[Prompt], responses: Mapping[str, str], *, seed: int = 0) -> pd.DataFrame:
    """Ask a chat model for a rating of each response.

    Args:
        chat: of `Chat.connect`.
        prompts: those without a response are left out.
        responses: texts by prompt id; an empty one follows nothing and is not asked about.
        seed: of the chat model.

    Returns a row per prompt: prompt_id, rating (0: none), reason (why there is none).

    Raises:
        AnnotationStopped: the server gives no more answers; run again to go on where it stopped.
    """
    rows = [
        (prompt.id, *_rating(chat, prompt, responses[prompt.id], seed)) for prompt in prompts if prompt.id in responses
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "rating", "reason"])


def _rating(chat: Chat, prompt: Prompt, response: str, seed: int) -> tuple[int, str]:
    if not response.strip():
        return UNFOLLOWED, ""
    question = QUESTION.format(prompt=prompt.stripped, response=response.strip())
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return read_rating(chat.ask(messages, "rating", SCHEMA, seed, parse_rating))


def parse_rating(text: str) -> int:
    """Return the rating in what was said.

    Raises:
        ValueError: there is none, or none of the scale.
    """
    rating = object_in(text, SCHEMA["required"])["rating"]
    if type(rating) is not int or not UNFOLLOWED <= rating <= HIGHEST:
        raise ValueError(f"no rating from {UNFOLLOWED} to {HIGHEST}")
    return rating


def read_rating(answer: Answer) -> tuple[int, str]:
    """Return the rating that an answer holds, and "", or no rating with the reason."""
    if answer.kind != "said":
        return NO_RATING, f"{answer.kind}: {answer.text}"
    try:
        return parse_rating(answer.text), ""
    except ValueError as error:
        return NO_RATING, f"{error}: {answer.text[:200]}"
