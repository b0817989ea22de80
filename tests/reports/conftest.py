"""One finished tiny study and one browser for all tests of what people look at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TINY = str(Path(__file__).parents[1] / "tiny")
if TINY not in sys.path:
    sys.path.append(TINY)

import tiny_search  # noqa: E402 - it is on the path from here on


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tiny_search.Searched:
    """A finished study with classes that are called like HTML."""
    return tiny_search.search(tmp_path_factory.mktemp("searched"))
