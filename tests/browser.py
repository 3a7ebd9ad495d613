"""A real Chromium, without a screen, for the tests of the page."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium():
    """The browser; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(
            "no Chromium here: make system installs Debian's where it runs as root with apt"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=found, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, path, **options):
    """A page from the disk; anything it fetches, and any error of its script, fails the test."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)  # of milliseconds: a busy machine is no failure
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda told: wrong.append(f"{told.type}: {told.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "request",
        lambda asked: asked.url.startswith(("file:", "data:")) or wrong.append(asked.url),
    )
    try:
        page.goto(path.as_uri())
        page.wait_for_selector("html.ready", state="attached")
        yield page
        assert wrong == []
    finally:
        context.close()
