"""The store's byte limit, where several processes build and read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tlsearch.training.arrays import Array, ArraySpec, ArrayStore

SPEC = ArraySpec((1_000,), "float64")
LIMIT = 3 * SPEC.bytes + 2_000  # headers and notes take some bytes too

CHURN = """
import sys
from pathlib import Path
import numpy as np
from tlsearch.training.arrays import ArraySpec, ArrayStore

store = ArrayStore(Path(sys.argv[1]), limit_bytes=int(sys.argv[2]))
for turn in range(60):
    number = (turn * int(sys.argv[3])) % 11
    entry = store.get_or_build(
        f"{number:02x}" * 32, [ArraySpec((1000,), "float64")], lambda arrays: arrays[0].fill(number) or {}
    )
    assert (entry.arrays[0] == number).all(), number
print("done")
"""

HANG = """
import sys, time
from pathlib import Path
from tlsearch.training.arrays import ArraySpec, ArrayStore

def fill(arrays):
    arrays[0][:] = 1
    print("filling", flush=True)
    time.sleep(600)

ArrayStore(Path(sys.argv[1])).get_or_build("ab" * 32, [ArraySpec((1000,), "float64")], fill)
"""


def key(number: int) -> str:
    return f"{number:02x}" * 32


def put(store: ArrayStore, number: int) -> Array:
    def fill(arrays: Sequence[Array]) -> dict[str, int]:
        arrays[0].fill(number)
        return {"number": number}

    return store.get_or_build(key(number), [SPEC], fill).arrays[0]


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "store", limit_bytes=LIMIT)
    for number in range(3):
        put(store, number)
        os.utime(tmp_path / "store" / key(number)[:2] / key(number) / "meta.json", (number, number))
    assert store.open(key(0)) is not None  # used now
    put(store, 3)
    assert [store.open(key(number)) is not None for number in range(4)] == [True, False, True, True]
    assert store.size() <= LIMIT


def test_what_is_being_built_counts(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path / "store", limit_bytes=LIMIT)
    for number in range(3):
        put(store, number)

    def nested(arrays: Sequence[Array]) -> dict[str, int]:
        put(store, 4)
        taken = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*.npy"))
        assert taken <= LIMIT
        return {}

    store.get_or_build(key(5), [SPEC], nested)
    assert store.open(key(4)) is not None
    assert store.open(key(5)) is not None


def test_who_reads_keeps_what_others_evict(tmp_path: Path) -> None:
    place = tmp_path / "store"
    store = ArrayStore(place, limit_bytes=LIMIT)
    held = [put(store, 20), put(store, 21)]
    others = [
        subprocess.Popen(
            [sys.executable, "-c", CHURN, str(place), str(LIMIT), str(step)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for step in (3, 7)
    ]
    for other in others:
        told, error = other.communicate(timeout=550)
        assert told == "done\n", error
    assert store.open(key(20)) is None  # evicted ...
    for number, rows in zip((20, 21), held, strict=True):
        assert np.array_equal(rows, np.full(1_000, number))  # ... and still there for who has it open
    assert store.size() <= LIMIT
    assert list(place.glob("draft-*")) == []


@pytest.mark.parametrize("number", [0xAB, 1])
def test_what_a_killed_process_left_is_swept_by_the_next_one(tmp_path: Path, number: int) -> None:
    place = tmp_path / "store"
    builder = subprocess.Popen([sys.executable, "-c", HANG, str(place)], stdout=subprocess.PIPE, text=True)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "filling\n"
    store = ArrayStore(place)
    put(store, 2)
    assert len(list(place.glob("draft-*"))) == 1, "what is being built stays"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    builder.stdout.close()
    put(store, number)
    assert list(place.glob("draft-*")) == []
    assert store.open(key(0xAB)) is None or number == 0xAB
