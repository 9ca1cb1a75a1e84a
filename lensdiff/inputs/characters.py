"""Characters: which texts can be written at all, and one spelling for each of them."""

import re
import unicodedata

_LONE_SURROGATE = re.compile(
    "[\ud800-\udfff]"
)  # a pair of them is one character in Python, so any that is left is half


def lone_surrogate(text: str) -> int | None:
    """Return where the text's first half of a surrogate pair stands, which no UTF-8 can hold; None without any."""
    found = _LONE_SURROGATE.search(text)
    return found.start() if found else None


def composed(text: str) -> str:
    """Return the text in Unicode's NFC, so that an accented letter is spelled the same whoever typed it."""
    return unicodedata.normalize("NFC", text)


def escaped(text: str) -> str:
    r"""Return the text with lone surrogates spelled out (\ud800), so that it can be written."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
