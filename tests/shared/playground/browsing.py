"""A real browser for tests: Chromium, with a network that ends at the services under test."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ON_A_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")

PATIENCE = 20_000
"""Milliseconds that anything may take; a page that is as it should be never needs them."""

DESK = {"width": 1366, "height": 850}
PHONE = {"width": 320, "height": 640}

expect.set_options(timeout=PATIENCE)


def chromium() -> str | None:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (str(ON_A_MAC) if ON_A_MAC.exists() else None)


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Playwright's own event loop lives as long as this: close it before a test starts another."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium or Chrome is here; on Debian: apt-get install chromium")
    with sync_playwright() as playwright, undisturbed(path) as command:
        # Inside of containers its sandbox cannot be had; all it opens here is our own pages.
        browser = playwright.chromium.launch(executable_path=command, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def undisturbed(path: str) -> Iterator[Path]:
    """A command that is the browser, deaf to what other programs do to this computer's network."""
    with tempfile.TemporaryDirectory() as folder:
        command = Path(folder, "chromium")
        words = [sys.executable, "-I", str(Path(__file__).with_name("undisturbed.py")), path]
        command.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        command.chmod(0o755)
        yield command


class Visit:
    """One page of one service, and what a person would not see of it: its complaints."""

    def __init__(self, page: Page, url: str, *, path: str = "/playground") -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        """Addresses elsewhere that the page asked for."""
        page.set_default_timeout(PATIENCE)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.context.route("**/*", self._stay_here)
        page.goto(url + path)

    def _note(self, message: ConsoleMessage) -> None:
        # A refusal is no complaint: the browser itself names each response that is no success.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def _stay_here(self, route: Route) -> None:
        if route.request.url.startswith(self.url):
            route.continue_()
        else:
            self.strangers.append(route.request.url)
            route.abort()

    def ask(self, question: str) -> None:
        """As a person does: type, and press Enter."""
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")

    def answered(self, question: str) -> str:
        """Ask, wait until it is over, and return the answer's words."""
        before = self.page.locator("#messages .assistant").count()
        self.ask(question)
        expect(self.page.locator("#messages .assistant")).to_have_count(before + 1)
        expect(self.page.locator("[aria-busy]")).to_have_count(0)
        return self.page.locator("#messages .assistant .words").last.inner_text()

    def reload(self) -> None:
        self.page.reload()

    def log_in(self, user: str, password: str) -> None:
        self.page.get_by_label("User name").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.page.keyboard.press("Enter")

    def barriers(self) -> list[str]:
        """What axe finds that would keep somebody from using the page as it is now."""
        result = Axe().run(self.page).response
        return [
            f"{found['id']}: {node['html']}"
            for found in result["violations"]
            for node in found["nodes"]
        ]

    def scrolls_sideways(self) -> bool:
        return bool(
            self.page.evaluate(
                "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )


Visitor = Callable[..., Visit]


@contextmanager
def visits(browser: Browser) -> Iterator[Visitor]:
    """`visit(url, color_scheme="dark")`, each as somebody new. No page complains or leaves home."""
    made: list[Visit] = []

    def visit(url: str, *, path: str = "/playground", **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": DESK, "locale": "en-GB", **options})
        made.append(Visit(context.new_page(), url, path=path))
        return made[-1]

    try:
        yield visit
    finally:
        for one in made:
            one.page.context.close()
    assert [complaint for one in made for complaint in one.complaints] == []
    assert [address for one in made for address in one.strangers] == []
