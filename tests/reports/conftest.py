"""One finished tiny study and one browser for all tests of what people look at."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TINY = str(Path(__file__).parents[1] / "tiny")
if TINY not in sys.path:
    sys.path.append(TINY)

import tiny_search  # noqa: E402 - it is on the path from here on

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tiny_search.Searched:
    """A finished study with classes that are called like HTML."""
    return tiny_search.search(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real Chromium without a window."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()
