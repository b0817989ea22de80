from __future__ import annotations

import threading
import time

import pytest

from tlsearch.training.prefetch import ahead


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_what_is_loaded_beforehand_comes_in_order(count):
    assert list(ahead([lambda n=n: n * n for n in range(20)], count)) == [n * n for n in range(20)]


def test_at_most_so_many_are_loaded_beforehand_by_one_thread():
    done: list[int] = []
    threads = set()

    def load(number: int) -> int:
        done.append(number)
        threads.add(threading.get_ident())
        return number

    batches = ahead([lambda n=n: load(n) for n in range(10)], 2)
    assert next(batches) == 0
    limit = time.monotonic() + 550
    while len(done) < 3 and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.05)
    assert done == [0, 1, 2]  # the one taken, and two more
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    batches.close()


def test_an_error_arrives_and_the_thread_ends():
    before = threading.active_count()

    def load() -> int:
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        list(ahead([lambda: 1, load, lambda: 2], 2))
    assert threading.active_count() == before


def test_who_stops_early_leaves_no_thread():
    before = threading.active_count()
    batches = ahead([lambda n=n: n for n in range(100)], 2)
    next(batches)
    batches.close()
    assert threading.active_count() == before
