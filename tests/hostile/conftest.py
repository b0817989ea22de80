"""How much is tried, and the ways to damage a file.

``make chaos`` (TLSEARCH_CHAOS=1) tries a hundred times as much.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TINY = str(Path(__file__).parents[1] / "tiny")
if TINY not in sys.path:
    sys.path.append(TINY)

SHARE = float(os.environ.get("TLSEARCH_CHAOS", "0.01"))
TRIED = settings(
    max_examples=max(20, round(3000 * SHARE)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Part of ``make chaos`` too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Damage = Callable[[bytes], bytes]

_place = st.floats(0, 1, exclude_max=True)
_near_the_start = st.floats(0, 1, exclude_max=True).map(lambda share: share**4)
_numbers = st.sampled_from(
    [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\x40\0", b"\0\x40\0\0", b"\x01"]
)


def _overwrite(place: float, new: bytes) -> Damage:
    def change(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + new + content[at + len(new) :]

    return change


def _insert(place: float, new: bytes) -> Damage:
    return lambda content: content[: int(place * len(content))] + new + content[int(place * len(content)) :]


def _cut(start: float, length: float) -> Damage:
    def change(content: bytes) -> bytes:
        at = int(start * len(content))
        return content[:at] + content[at + int(length * (len(content) - at)) :]

    return change


def _repeat(start: float, length: int) -> Damage:
    def change(content: bytes) -> bytes:
        at = int(start * len(content))
        return content[:at] + content[at : at + length] * 3 + content[at + length :]

    return change


def _all_of(changes: list[Damage]) -> Damage:
    def change(content: bytes) -> bytes:
        for one in changes:
            content = one(content)
        return content

    return change


_one_damage = st.one_of(
    st.builds(
        _overwrite, st.one_of(_place, _near_the_start), st.one_of(st.binary(min_size=1, max_size=8), _numbers)
    ),
    st.builds(_insert, _place, st.binary(min_size=1, max_size=8)),
    st.builds(_cut, _place, _place),
    st.builds(_repeat, _place, st.integers(1, 40)),
)
damages = st.lists(_one_damage, min_size=1, max_size=5).map(_all_of)
"""Changes of a file: bytes and numbers overwritten, most often near the start; put in, cut, doubled."""
