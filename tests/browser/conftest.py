"""Pages in a real browser: Debian's chromium (or the Chrome that is there) driven by playwright."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests, or a skip that says what is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield running
        running.close()


class Opened:
    """A page, and everything it did that a page of lensdiff must not do."""

    def __init__(self, page: Any, url: str):
        self.page, self.url = page, url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        # a request that the content-security policy stopped is an error of the console: none may be tried
        page.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        page.on("dialog", self._close)
        page.goto(url)

    def _close(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def check(self) -> None:
        """Assert that only the page itself was read, and that nothing failed or ran that was planted."""
        outside = [url for url in self.requests if url != self.url and not url.startswith(("data:", "blob:", "about:"))]
        assert outside == []
        assert self.errors == []
        assert self.dialogs == []
        for frame in self.page.frames:
            assert frame.evaluate("typeof window.ran") == "undefined"


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Open a page from disk; whatever the test does with it, it must make no request and run nothing planted."""
    pages: list[Opened] = []

    def open_it(html: str | Path, *, width: int = 1280, height: int = 900, **options: Any) -> Opened:
        path = html if isinstance(html, Path) else tmp_path / f"page{len(pages)}.html"
        if isinstance(html, str):
            path.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        pages.append(Opened(context.new_page(), path.as_uri()))
        return pages[-1]

    yield open_it
    for opened in pages:
        opened.check()
        opened.page.context.close()
