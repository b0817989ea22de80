"""Studies that share a cluster: each gets its part, none more than its cap, all of it is used."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.database.conftest import create
from tlsearch.database.store import Sharer, Store
from tlsearch.errors import WorkError
from tlsearch.records import StudyState
from tlsearch.search import fair_share
from tlsearch.search.fair_share import Share, share

A, B, C = Sharer("a", 1, None), Sharer("b", 1, None), Sharer("c", 2, None)


@pytest.mark.parametrize(
    ("total", "sharers", "parts"),
    [
        (8, [A], [8]),
        (8, [A, B], [4, 4]),
        (7, [A, B], [4, 3]),
        (8, [A, B, C], [2, 2, 4]),
        (9, [A, B, C], [2, 2, 5]),
        (8, [Sharer("a", 1, 1), B], [1, 7]),  # what one can't use goes to the others
        (8, [Sharer("a", 1, 1), B, C], [1, 2, 5]),
        (4, [Sharer("a", 9, 2), Sharer("b", 1, 1)], [2, 1]),  # nobody is left to use the fourth
        (2, [A, B, C], [1, 1, 1]),  # more studies than slots: each may ask, Ray lets one wait
        (0, [A], [1]),
    ],
)
def test_parts_follow_priorities_and_caps(total: int, sharers: list[Sharer], parts: list[int]) -> None:
    assert [share(total, sharer.study, sharers) for sharer in sharers] == parts


def test_a_study_that_is_not_among_them_yet_may_ask_for_all() -> None:
    assert share(8, "new", [A, B]) == 8


@given(
    total=st.integers(1, 300),
    sharers=st.lists(st.tuples(st.integers(1, 100), st.none() | st.integers(1, 50)), min_size=1, max_size=12),
)
def test_parts_add_up_and_caps_hold(total: int, sharers: list[tuple[int, int | None]]) -> None:
    all_ = [Sharer(f"s{number:02}", *given) for number, given in enumerate(sharers)]
    parts = {sharer.study: share(total, sharer.study, all_) for sharer in all_}
    assert all(part >= 1 for part in parts.values())
    assert all(parts[s.study] <= (s.cap or math.inf) for s in all_)
    useful = min(total, sum(s.cap or total for s in all_))
    surplus = sum(part == 1 for part in parts.values())  # those that got their 1 though less was theirs
    assert useful <= sum(parts.values()) <= useful + surplus


def test_a_share_follows_who_comes_and_goes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_share, "REFRESH_SECONDS", -1.0)
    have = 6

    def slots() -> int:
        if not have:
            raise WorkError("no worker is left")
        return have

    with Store.open(f"sqlite:///{tmp_path / 'studies.db'}", create=True) as store:
        leases = {}
        for name, priority in (("a", 1), ("b", 2)):
            create(store, name, spec={})
            leases[name] = store.acquire(name, owner=f"ann@host:{name}")
            if name == "a":
                store.update_study(leases[name], cluster="session_1", priority=priority)
                alone = Share(store, leases["a"], cluster="session_1", cap=None, slots=slots)
                assert alone() == 6
            store.update_study(leases[name], cluster="session_1", priority=priority)
        both = [Share(store, leases[n], cluster="session_1", cap=None, slots=slots) for n in leases]
        assert [part() for part in both] == [2, 4]
        assert Share(store, leases["b"], cluster="session_1", cap=3, slots=slots)() == 3
        assert Share(store, leases["a"], cluster="", cap=None, slots=slots)() == 6  # a Ray of its own
        have = 0  # for a moment no node is there: the study goes on as it was
        assert both[0]() == 2
        have = 12
        assert both[0]() == 4
        store.release(leases["b"], state=StudyState.COMPLETE)
        assert both[0]() == 12
