"""Two responses to one prompt side by side as plain text: where they part, how they end, and whether one is empty."""

from collections.abc import Sequence
from dataclasses import dataclass

from lensdiff.views.widget import Role, Widget, templates


@dataclass(frozen=True)
class ResponseData:
    """What one model said.

    Attributes:
        role: its colour; name: the model's.
        pieces: its tokens, or words with the space before each.
        end: the end token after them; "" where the response was cut off, None where nobody knows.
    """

    role: Role
    name: str
    pieces: Sequence[str]
    end: str | None


@dataclass(frozen=True)
class PromptResponses:
    """The responses to one prompt.

    Attributes:
        label: under which it is chosen; prompt: its text.
        parting: the place of the first piece that differs, an end token counted; None where none does.
        sides: base and tuned.
    """

    label: str
    prompt: str
    parting: int | None
    sides: list[ResponseData]


@dataclass(frozen=True)
class ResponsesData:
    """What the script is given: prompts, and which of them is shown first."""

    prompts: list[PromptResponses]
    first: int


FALLBACK = templates.from_string(
    "{% for p in prompts %}<h3>{{ p.label }}</h3><p>{{ p.prompt }}</p>{% for s in p.sides %}<p>{{ s.role }}: "
    "{{ s.pieces | join('') or 'an empty response' }} {{ s.end or '' }}</p>{% endfor %}{% endfor %}"
)


def responses_widget(prompts: list[PromptResponses], first: int = 0) -> Widget:
    """Return both models' responses, one prompt chosen at a time."""
    return Widget(
        "responses",
        ResponsesData(prompts, first),
        "Responses",
        height=420,
        fallback=FALLBACK.render(prompts=prompts),
    )
