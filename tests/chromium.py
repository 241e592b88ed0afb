"""Chromium for tests of pages."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Yields a browser of Playwright; skips the test if there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not _PATH:
        pytest.skip("Chromium is not installed; apt-get install chromium")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_PATH, args=_FLAGS)
        yield browser
        browser.close()
