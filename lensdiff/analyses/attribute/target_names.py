"""Targets as a config and the command line name them; nothing heavy is imported for a command's help.

What each differentiates:

    probability, log_probability, logit      of each response token
    contrast:TEXT|TEXT                       the logit of one token less that of another: "contrast: yes| no"
    choice                                   that of the tuned model's next token less that of the base's, on one text
"""

CHOICE = "choice"
NAMES = ("probability", "log_probability", "logit", CHOICE)
CONTRAST, BETWEEN = "contrast:", "|"
EXPECTED = f"one of {', '.join(NAMES)}, or {CONTRAST}TEXT{BETWEEN}TEXT with two different texts"


def contrasted(target: str) -> tuple[str, str] | None:
    """Return the two texts of a contrast's name, with their spaces; None of what names no contrast of two texts."""
    if not target.startswith(CONTRAST):
        return None
    texts = target.removeprefix(CONTRAST).split(BETWEEN)
    return (texts[0], texts[1]) if len(texts) == 2 and all(texts) and texts[0] != texts[1] else None
