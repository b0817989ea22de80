"""What people ask of studies that others run, and which studies share a cluster."""

from __future__ import annotations

import sqlite3
import time

import psycopg
import pytest

from tests.database.conftest import create, outcome, point, result
from tests.database.test_open import execute
from tlsearch.database.store import Lease, Sharer, Store
from tlsearch.errors import StudyConflictError, UnknownNameError
from tlsearch.records import StudyRequest, StudyState, TrialState

PAUSE, CANCEL = StudyRequest.PAUSE, StudyRequest.CANCEL


def test_a_pause_reaches_the_driver_with_its_heartbeat_and_is_over_when_done(
    store: Store, lease: Lease
) -> None:
    assert store.renew(lease) is None
    assert store.ask("flowers", PAUSE, by="bob@laptop") is True
    study = store.study("flowers")
    assert (study.state, study.request, study.requested_by) == (StudyState.RUNNING, PAUSE, "bob@laptop")
    assert store.renew(lease) == (PAUSE, "bob@laptop")
    store.release(lease, state=StudyState.INTERRUPTED, reason="paused by bob@laptop")
    study = store.study("flowers")
    assert (study.state, study.reason, study.request) == (
        StudyState.INTERRUPTED,
        "paused by bob@laptop",
        None,
    )
    assert store.renew(store.acquire("flowers", owner="ann@host:2:0")) is None


def test_a_cancelled_study_stays_so_and_says_how_to_go_on(store: Store, lease: Lease) -> None:
    store.ask("flowers", PAUSE, by="bob")
    assert store.ask("flowers", CANCEL, by="eve") is True
    assert store.study("flowers").state is StudyState.RUNNING  # until its driver has done it
    assert store.renew(lease) == (CANCEL, "eve")
    store.release(lease, state=StudyState.INTERRUPTED, reason="cancelled by eve")
    study = store.study("flowers")
    assert (study.state, study.reason) == (StudyState.CANCELLED, "cancelled by eve")
    for attempt in (
        lambda: store.acquire("flowers", owner="ann@host:2:0"),
        lambda: store.refuse_held("flowers"),
    ):
        with pytest.raises(StudyConflictError, match='"flowers" was cancelled by eve') as caught:
            attempt()
        assert "tlsearch study fork flowers NEW" in str(caught.value.hint)
    with pytest.raises(StudyConflictError, match="cancelled by eve already"):
        store.ask("flowers", PAUSE, by="bob")


def test_cancelling_what_nobody_drives_ends_its_open_trials_and_fences_the_late(store: Store) -> None:
    create(store)
    late = store.acquire("flowers", owner="ann@host:1:0", seconds=0.1)
    store.start_trials(late, [point(0), point(1)])
    store.record(late, [result(0, outcome=outcome())])
    time.sleep(0.2)
    assert store.ask("flowers", CANCEL, by="eve") is False
    assert store.study("flowers").state is StudyState.CANCELLED
    first, second = store.trials("flowers")
    assert first.state is TrialState.COMPLETE
    assert (second.state, second.reason) == (TrialState.CANCELLED, "the study was cancelled by eve")
    with pytest.raises(StudyConflictError, match="no longer runs"):
        store.record(late, [result(1)])


def test_what_makes_no_sense_is_refused(store: Store, lease: Lease) -> None:
    with pytest.raises(UnknownNameError, match='No study "flower"'):
        store.ask("flower", PAUSE, by="bob")
    store.ask("flowers", CANCEL, by="eve")
    store.release(lease, state=StudyState.COMPLETE)  # the search was over before the driver heard of it
    assert store.study("flowers").state is StudyState.COMPLETE
    for action in (PAUSE, CANCEL):
        with pytest.raises(StudyConflictError, match=f"complete: there is nothing to {action.value}"):
            store.ask("flowers", action, by="bob")
    create(store, "birds")
    with pytest.raises(StudyConflictError, match='Nobody runs study "birds"'):
        store.ask("birds", PAUSE, by="bob")


def test_a_driver_in_place_of_a_dead_one_still_hears_what_was_asked(store: Store, lease: Lease) -> None:
    store.ask("flowers", PAUSE, by="bob")
    again = store.acquire("flowers", owner="ann@host:2:0", stale=lambda owner: True, keep_request=True)
    assert store.renew(again) == (PAUSE, "bob")
    anew = store.acquire("flowers", owner="ann@host:3:0", stale=lambda owner: True)
    assert store.renew(anew) is None


def test_sharers_are_those_that_run_on_that_cluster_now(store: Store) -> None:
    def run(
        name: str, cluster: str, *, priority: int = 1, cap: int | None = None, seconds: float = 30
    ) -> Lease:
        create(store, name, spec={"resources": {"concurrent": cap}} if cap else {}, owner="ann")
        taken = store.acquire(name, owner=f"ann@host:{name}", seconds=seconds)
        store.update_study(taken, cluster=cluster, priority=priority)
        return taken

    run("flowers", "10.0.0.1:6379", priority=3)
    birds = run("birds", "10.0.0.1:6379", cap=2)
    run("cars", "10.0.0.2:6379")
    run("dead", "10.0.0.1:6379", seconds=0.05)
    time.sleep(0.1)
    both = [Sharer("birds", 1, 2), Sharer("flowers", 3, None)]
    assert store.sharers("10.0.0.1:6379") == both
    store.release(birds, state=StudyState.INTERRUPTED)
    assert store.sharers("10.0.0.1:6379") == both[1:]
    assert store.sharers("nowhere") == []
    assert store.study("flowers").owner == "ann"


def test_the_database_itself_refuses_what_is_no_request(url: str, store: Store) -> None:
    create(store)
    for column, value in (("request", "'explode'"), ("priority", "0")):
        with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
            execute(url, f"UPDATE studies SET {column} = {value}")
