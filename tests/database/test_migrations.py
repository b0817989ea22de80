"""Databases that an earlier schema wrote, as SQL text, brought to the newest one with all that is in them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from tlsearch.database import schema
from tlsearch.database.store import Store, schema_version, upgrade
from tlsearch.errors import DatabaseError
from tlsearch.records import Point, StudyItems, StudyState, TrialRole, TrialState

SCHEMAS = Path(__file__).parent / "schemas"


def pour(url: str, revision: str) -> None:
    """Fill an empty place with a database of that revision: two studies, one of them left by its driver."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript((SCHEMAS / f"{revision}.sqlite.sql").read_text())
        connection.close()
    else:
        with psycopg.connect(url) as server:
            server.execute((SCHEMAS / f"{revision}.postgresql.sql").read_text().encode())


def test_all_that_a_0001_database_holds_is_there_after_the_upgrade(url: str) -> None:
    pour(url, "0001")
    assert schema_version(url) == "0001"
    with pytest.raises(DatabaseError, match='schema "0001", older') as caught:
        Store.open(url)
    assert "tlsearch db upgrade" in str(caught.value.hint)
    assert upgrade(url) == ("0001", schema.REVISIONS[-1])
    with Store.open(url) as store:
        assert store.check() == []
        flowers, birds = store.studies()
        assert (flowers.name, flowers.state, flowers.seconds) == ("flowers", StudyState.COMPLETE, 12.5)
        assert (birds.state, birds.direction) == (StudyState.INTERRUPTED, "minimize")
        assert "bob@node7:7:2.00 stopped without a word" in birds.reason
        assert (flowers.owner, flowers.parent, flowers.request, flowers.priority) == ("", None, None, 1)
        assert (flowers.job, flowers.cluster, flowers.audit) == ("", "", {})
        trials = store.trials("flowers")
        assert [trial.role for trial in trials] == [TrialRole.SEARCH, TrialRole.SEARCH, TrialRole.CONFIRM]
        assert trials[0].artifact is not None
        assert trials[1].reason == 'it said "no"'
        assert [epoch.value for epoch in store.epochs("flowers", 0)] == [0.5, 0.75]
        model = store.model("flowers")
        assert model is not None
        assert model.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        # And it can be worked with.
        lease = store.acquire("birds", owner="ann@host:1:0")
        store.update_study(lease, audit={"leaks": []}, priority=3, job="tlsearch-birds-1", cluster="h:1")
        store.end_trials(lease, [0], TrialState.CANCELLED, "its driver died")
        birds = store.study("birds")
        assert (birds.audit, birds.priority, birds.job) == ({"leaks": []}, 3, "tlsearch-birds-1")
        assert birds.counts[TrialState.CANCELLED] == 1
        refit = Point(9, "tiny/net", "fine_tune", {}, seed=1, role=TrialRole.REFIT, confirms=0)
        store.start_trials(lease, [refit])
        assert [trial.number for trial in store.trials("birds", role=TrialRole.REFIT)] == [9]
        assert [store.count_opening(lease) for _ in range(2)] == [1, 2]
        assert store.count_opening(lease, by=-1) == 1
        assert store.check() == []
        assert store.items("birds") is None
        items = StudyItems(
            ("a/1.png", "\udcff"), ("0" * 64, "1" * 64), ("a", "b"), ("train", "val"), (1,), "f"
        )
        store.fix_items(lease, items)
        store.fix_items(lease, StudyItems((), (), (), ()))  # those that it has stay
        assert (store.items("birds"), store.items("flowers")) == (items, None)


def test_a_driver_upgrades_an_older_database_as_it_opens_it(url: str) -> None:
    pour(url, "0001")
    with Store.open(url, create=True) as store:
        assert len(store.studies()) == 2
    assert schema_version(url) == schema.REVISIONS[-1]


def test_an_upgraded_schema_is_the_one_that_is_made_anew(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from tlsearch.database.tables import Base

    pour(url, "0001")
    upgrade(url)
    with Store.open(url) as store, store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
        found = {check["name"] for check in schema.inspect(connection).get_check_constraints("studies")}
    assert found == {f"ck_studies_{name}" for name in ("state", "direction", "request", "priority")}


def test_an_upgrade_that_is_killed_leaves_the_old_schema(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pour(url, "0001")
    real = schema.run_alembic

    def half(connection: object) -> None:
        real(connection)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "run_alembic", half)
    with pytest.raises(KeyboardInterrupt):
        upgrade(url)
    monkeypatch.undo()
    assert schema_version(url) == "0001"
    assert upgrade(url) == ("0001", schema.REVISIONS[-1])
    with Store.open(url) as store:
        assert len(store.trials("flowers")) == 3
