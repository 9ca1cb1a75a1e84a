"""Tokens that try to break out of a page."""

LONG = "x" * 10_000
HOSTILE = (
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "<img/src=x/onerror=window.ran=1>",
    "<!--<script>",
    "'\"><svg onload=window.ran=1>",
    "\u2028window.ran=1\u2029",
    "\u202emirrored\u202c שלום مرحبا",
    "{{ 7 * 7 }}",
    "&lt;img src=x onerror=window.ran=1&gt;",
    LONG,
)
