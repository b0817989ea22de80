"""Batches made ready while the device is busy with the ones before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Loaded = TypeVar("Loaded")


def ahead(loads: Iterable[Callable[[], Loaded]], count: int) -> Iterator[Loaded]:
    """What the loads return, in their order; a thread does up to ``count`` of them beforehand.

    With 0 there is no thread. Where the consumer stops early, or a load raises, the thread ends.
    """
    if count < 1:
        for load in loads:
            yield load()
        return
    rest = iter(loads)
    waiting: deque[Future[Loaded]] = deque()
    # One thread: more would change no order, but take cores that the trial wasn't given.
    executor = ThreadPoolExecutor(1, thread_name_prefix="tlsearch-batches")
    try:
        waiting.extend(executor.submit(load) for load in islice(rest, count))
        while waiting:
            loaded = waiting.popleft().result()
            waiting.extend(executor.submit(load) for load in islice(rest, 1))
            yield loaded
    finally:
        executor.shutdown(cancel_futures=True)
