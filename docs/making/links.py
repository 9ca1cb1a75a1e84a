"""Links that lead from a page to a file of the repository which is no page: they are checked, and shown as its path."""

import posixpath
import re

from mkdocs.structure.files import Files

from docs.making.navigation import ROOT, repository

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
INCLUDED = re.compile(r"^<!-- file: (\S+) -->$", re.MULTILINE)
LANGUAGES = {".py": "python", ".js": "js"}
ASKED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
WRITTEN = re.compile(
    r"(?:src\s*=|import|importScripts|url|fetch)\s*\(?\s*[\"']((?:https?:)?//[^\"']+)[\"']", re.IGNORECASE
)
SCRIPT = re.compile(r"<script\b[^>]*>(.*?)</script>", re.DOTALL)
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def mended(text: str, page: str, files: Files) -> tuple[str, list[str]]:
    """Return a page with its links out of docs/ made links to the repository, or its paths; and sentences on lost ones.

    A link to a notebook leads to its page.
    """
    lost: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        label, target = match.groups()
        if re.match(r"[a-z]+:|#|/", target):
            return match[0]
        path, _, anchor = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target)).partition("#")
        if path.startswith("docs/"):
            return match[0]
        if path.startswith("notebooks/") and path in files.src_uris:
            return f"[{label}]({posixpath.relpath(path, posixpath.dirname(page) or '.')})"
        if not (ROOT / path).exists():
            lost.append(f"{page} has a link to {target}, and there is no {path}")
        if repository():
            return f"[{label}]({repository()}/blob/main/{path}{'#' if anchor else ''}{anchor})"
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts), lost


def included(text: str) -> str:
    """Return a page with the files of the repository that it names in their places."""

    def replaced(match: re.Match[str]) -> str:
        path = ROOT / match[1]
        return f"```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8').strip()}\n```"

    return INCLUDED.sub(replaced, text)


def asked_for(html: str) -> list[str]:
    """Return the addresses that a page loads something from when it is opened; a link that is followed is none."""
    return ASKED.findall(html) + [address for script in SCRIPT.findall(html) for address in WRITTEN.findall(script)]


def without_diagrams(html: str) -> str:
    """Return a notebook's page without the script that would ask the network for what draws diagrams: it has none."""
    return SCRIPT.sub(lambda match: "" if "mermaid" in match[1] and WRITTEN.search(match[1]) else match[0], html)
