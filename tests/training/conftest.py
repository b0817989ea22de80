"""One thread for tiny tensors; few items to stop by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, above all where others want the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def few_stop_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny data's stop items are enough to choose an epoch by."""
    monkeypatch.setattr("tlsearch.training.fit.LEAST_STOP_ITEMS", 1)
