"""A visitor of the page: a real browser without a window, that notes all it asks for and all it complains of."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

WAIT_MS = 15_000
"""Longest time that anything on the page may take."""

_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test skips where none is installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine; `apt-get install chromium` brings one")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One tab at a service, and what is seen there.

    Args:
        context: the browser's, of its own.
        url: of the service.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.complaints: list[str] = []
        context.add_init_script(_NOTE_VIOLATIONS)
        context.set_default_timeout(WAIT_MS)
        context.on("request", lambda request: self.asked.append(request.url))
        self.page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, link: str = "") -> Visit:
        """Go to the page and wait for answers."""
        self.page.goto(f"{self.url}/{link}")
        self.page.wait_for_selector("#answers .card")
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until nothing is being asked for."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_selector("#result:not([aria-busy])")

    def wait(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true.

        Playwright's own waiting evaluates text inside the page, which the page's policy forbids.
        """
        end = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"{expression} did not become true in {WAIT_MS} ms"
            self.page.wait_for_timeout(20)

    def ids(self) -> list[str]:
        """Ids of the answers, in order."""
        return list(self.page.locator("#answers .card .id").all_inner_texts())

    def text(self, selector: str) -> str:
        """What is to be read at a place."""
        return str(self.page.locator(selector).inner_text())

    def press(self, name: str, rank: int | None = None) -> None:
        """Press a button, of the page or of an answer, and wait for what comes of it."""
        place = self.page if rank is None else self.page.locator("#answers .card").nth(rank - 1)
        place.get_by_role("button", name=name).first.click()
        self.settle()

    def searched(self) -> list[Any]:
        """Bodies of the searches that are made from now on; a list that grows."""
        bodies: list[Any] = []
        self.page.on("request", lambda request: bodies.append(request.post_data_json) if _is_search(request) else None)
        return bodies

    def require_calm(self) -> None:
        """Check that nothing came from elsewhere, no policy was violated, and the console stayed empty."""
        strange = [url for url in self.asked if not url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/"))]
        assert strange == []
        assert self.page.evaluate("window.violations") == []
        assert self.complaints == []


def _is_search(request: Any) -> bool:
    return bool(request.method == "POST" and request.url.endswith("/v1/search"))


@contextlib.contextmanager
def visiting(browser: Any, url: str, **options: Any) -> Iterator[Visit]:
    """A tab for the length of a block; at its end all is checked that :meth:`Visit.require_calm` does.

    Args:
        browser: from :func:`chromium`.
        url: of the service.
        options: of Playwright's ``new_context``.
    """
    options.setdefault("viewport", {"width": 1280, "height": 900})
    context = browser.new_context(**options)
    try:
        visit = Visit(context, url)
        yield visit
        visit.require_calm()
    finally:
        context.close()
