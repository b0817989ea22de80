"""The tiny fixtures for pytest: ``pytest_plugins = ["tlsearch.testing.pytest_plugin"]`` in a test module."""

from __future__ import annotations

import pytest

from tlsearch.contracts import Pretrained
from tlsearch.testing import fixtures


@pytest.fixture(name="tiny_cnn")
def tiny_cnn() -> Pretrained:
    """A convolutional network of four groups; see `tlsearch.testing.tiny_cnn`."""
    return fixtures.tiny_cnn()


@pytest.fixture(name="tiny_vit")
def tiny_vit() -> Pretrained:
    """A vision transformer of four groups; see `tlsearch.testing.tiny_vit`."""
    return fixtures.tiny_vit()


@pytest.fixture(name="tiny_task")
def tiny_task() -> fixtures.TinyTask:
    """300 handwritten digits at 16 pixels; see `tlsearch.testing.tiny_task`."""
    return fixtures.tiny_task()
