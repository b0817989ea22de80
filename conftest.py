"""For the tests of the core and of all plugins."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import pytest

from tests import forked
from tlsearch.testing import contract


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """Contract tests fork their fresh processes; ``tlsearch plugins check`` is tested with real ones."""
    with mock.patch.object(contract, "subprocess", SimpleNamespace(DEVNULL=-3, run=forked.run)):
        yield
