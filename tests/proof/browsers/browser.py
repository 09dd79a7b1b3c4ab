"""A real Chromium, headless, and what a test asks of a page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


def program() -> Path | None:
    found = shutil.which("chromium")
    return Path(found) if found else None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS, headless=True)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def window(browser: Any, url: str, **how: Any) -> Iterator[Any]:
    """A page of a browser that has been nowhere. Whatever it complains of (the policy, a script) fails the test."""
    context = browser.new_context(base_url=url, **how)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if _is_a_fault(said) else None)
    try:
        yield page
        assert not complaints, complaints
    finally:
        context.close()


def _is_a_fault(said: Any) -> bool:
    """A refused connection, or an answer that is no, is of the network: tests restart gate, and are refused, on purpose."""
    return said.type == "error" and not any(
        word in said.text for word in ("Failed to load resource", "net::ERR", "Failed to fetch")
    )
