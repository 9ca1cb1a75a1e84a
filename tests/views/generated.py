"""Texts made at random from what breaks pages: always the same ones."""

import random
from functools import lru_cache

SEED = 18
MARK = "window.ran=1"
TAGS = (
    "script",
    "img",
    "svg",
    "iframe",
    "style",
    "a",
    "b",
    "math",
    "object",
    "template",
    "textarea",
    "title",
    "noscript",
)
PIECES = (
    *(
        "<",
        ">",
        "</",
        "/>",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "<?",
        "<!doctype html>",
        "&lt;",
        "&gt;",
        "&amp;",
        "&#60;",
    ),
    *(
        "&#x3c;",
        "&quot;",
        "&nbsp",
        "&",
        "'",
        '"',
        "`",
        "\\",
        "\\u003c",
        "\\x3c",
        "${",
        "}",
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
    ),
    *("]]", "[[", "()", ";", "//", "/*", "*/", "=", "+", "-", "@", "%3C", "\0x"[1:], "javascript:", "data:text/html,"),
    *(
        "\u2028",
        "\u2029",
        "\u202e",
        "\u200b",
        "\u2060",
        "\ufeff",
        "\u0301",
        "שלום",
        "漢字",
        "😀",
        "Ω",
        "é",
        "\u0085",
        "\xa0",
    ),
    *(" ", "  ", "\n", "\t", "\r\n", "\x0b", "\x7f", "\x1b[31m", "word", "the", "Ġthe", "▁the", "##ing", "<s>", "</s>"),
    *(
        "__proto__",
        "constructor",
        "toString",
        "null",
        "undefined",
        "NaN",
        "1e999",
        "-0",
        "true",
        "length",
        "hasOwnProperty",
    ),
)


def _attack(rng: random.Random) -> str:
    tag, quote = rng.choice(TAGS), rng.choice(("", "'", '"', "`"))
    space = rng.choice((" ", "/", "\t", "\n", "\x0c"))
    event = rng.choice(("onerror", "onload", "onfocus autofocus", "onmouseover", "ontoggle open", "onbegin"))
    case = rng.choice((str.lower, str.upper, str.title))
    return rng.choice(
        (
            f"<{case(tag)}{space}src=x{space}{event}={quote}{MARK}{quote}>",
            f"</{case(tag)}><script>{MARK}</script>",
            f"{quote}>{rng.choice(PIECES)}<script>{MARK}</script>",
            f"<{tag}{space}href=javascript:{MARK}>x</{tag}>",
            f'<iframe srcdoc="<script>parent.{MARK}</script>">',
            f"${{{MARK}}}{{{{{MARK}}}}}`);{MARK}//",
            f'");{MARK};//',
            f"';{MARK};'",
            f"<style>@import url(http://127.0.0.1:9/{tag})</style>",
            f"<link rel=stylesheet href=http://127.0.0.1:9/{tag}>",
            f"<img src=http://127.0.0.1:9/{tag}.png>",
            f"<meta http-equiv=refresh content=0;url=http://127.0.0.1:9/{tag}>",
        )
    )


def _text(rng: random.Random) -> str:
    parts = [rng.choice(PIECES) if rng.random() < 0.7 else _attack(rng) for _ in range(rng.randint(1, 6))]
    return "".join(parts)


@lru_cache
def texts(n: int) -> tuple[str, ...]:
    """So many texts that differ, each with something to see in it; those of a smaller number are the first ones."""
    rng, found = random.Random(SEED), {}
    while len(found) < n:
        text = _text(rng)
        if text.strip():
            found[text] = None
    return tuple(found)
