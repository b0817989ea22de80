"""Opening, creating and refusing databases."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.database.conftest import create
from tlsearch.database import schema
from tlsearch.database.address import parse
from tlsearch.database.store import Store, schema_version, upgrade
from tlsearch.errors import DatabaseError, StudyConflictError


def execute(url: str, statement: str) -> None:
    """Run one statement behind the store's back."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(statement)
        connection.close()
    else:
        with psycopg.connect(url) as server:
            server.execute(statement)


def test_created_database_is_at_head_and_opens_again(url: str) -> None:
    assert schema_version_or_none(url) is None
    with Store.open(url, create=True) as store:
        create(store)
    assert schema_version(url) == schema.REVISIONS[-1]
    for again in (False, True):
        with Store.open(url, create=again) as store:
            assert [study.name for study in store.studies()] == ["flowers"]
            assert store.check() == []


def schema_version_or_none(url: str) -> str | None:
    try:
        return schema_version(url)
    except DatabaseError:
        return None


def test_models_and_known_revisions_match_the_migrations(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from tlsearch.database.tables import Base

    scripts = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == schema.REVISIONS
    with store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
        # Alembic doesn't compare CHECK constraints.
        inspector = schema.inspect(connection)
        for table in Base.metadata.tables.values():
            stored = {check["name"] for check in inspector.get_check_constraints(table.name)}
            modelled = {
                f"ck_{table.name}_{check.name}".replace(
                    f"ck_{table.name}_ck_{table.name}", f"ck_{table.name}"
                )
                for check in table.constraints
                if type(check).__name__ == "CheckConstraint"
            }
            assert stored == modelled


def test_states_that_are_none_are_refused_by_the_database_itself(url: str, store: Store) -> None:
    create(store)
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        execute(url, "UPDATE studies SET state = 'DONE'")


def test_eight_processes_create_one_database(url: str) -> None:
    script = (
        "import sys; from tlsearch.database.store import Store; sys.stdin.readline(); "
        "store = Store.open(sys.argv[1], create=True); print(len(store.studies())); store.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    answers = []
    for process in processes:  # all wait for a line, so they start the work together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        answers.append(process.communicate(timeout=550))
    assert answers == [("0\n", "")] * 8
    assert schema_version(url) == schema.REVISIONS[-1]
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        assert [entry.name for entry in path.parent.iterdir()] == ["tlsearch.db"]


def test_missing_file_is_named_and_not_created(sqlite_url: str, tmp_path: Path) -> None:
    for attempt in (lambda: Store.open(sqlite_url), lambda: upgrade(sqlite_url)):
        with pytest.raises(DatabaseError, match=re.escape(str(tmp_path / "tlsearch.db"))) as caught:
            attempt()
        assert "tlsearch run" in str(caught.value.hint)
        assert "TLSEARCH_DB" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create_it", [False, True])
def test_other_files_are_refused_and_left_alone(tmp_path: Path, create_it: bool) -> None:
    path = tmp_path / "notes # 1.txt"
    path.write_text("not a database, but long enough to have a header of some kind\n" * 20)
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="is not a SQLite database"):
        Store.open(f"sqlite:///{path}", create=create_it)
    with pytest.raises(DatabaseError, match="is a directory"):
        Store.open(f"sqlite:///{tmp_path}", create=create_it)
    with pytest.raises(DatabaseError, match=r"No directory|No study database"):
        Store.open(f"sqlite:///{tmp_path}/nowhere/tlsearch.db", create=create_it)
    assert path.read_bytes() == before


def test_strange_characters_in_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a b#c;é'&.db"
    with Store.open(f"sqlite:///{path}", create=True) as store:
        create(store)
    assert path.exists()


def test_empty_database_holds_no_studies(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).touch()
    with pytest.raises(DatabaseError, match="holds no studies"):
        Store.open(url)
    assert schema_version(url) is None


def test_database_of_another_program_is_not_built_upon(url: str) -> None:
    execute(url, "CREATE TABLE trials (trial_id INTEGER)")  # as Optuna's storage has it
    with pytest.raises(DatabaseError, match="tables that are not tlsearch's: trials"):
        Store.open(url, create=True)
    assert schema_version(url) is None


def test_older_schema_asks_for_an_upgrade(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(url, create=True).close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
        with pytest.raises(DatabaseError, match='"0004", older than "9999"') as caught:
            Store.open(url)
        assert "tlsearch db upgrade" in str(caught.value.hint)
    assert upgrade(url) == ("0004", "0004")


@pytest.mark.parametrize("create_it", [False, True])
def test_newer_schema_is_refused_untouched(url: str, create_it: bool) -> None:
    Store.open(url, create=True).close()
    execute(url, f"UPDATE {schema.VERSION_TABLE} SET version_num = '0999'")
    with pytest.raises(DatabaseError, match=r'schema "0999".*knows "0004"'):
        Store.open(url, create=create_it)
    with pytest.raises(DatabaseError, match="0999"):
        upgrade(url)
    assert schema_version(url) == "0999"


def test_upgrade_that_fails_leaves_no_trace(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = schema.run_alembic

    def half(connection: Any) -> None:
        real(connection)
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "run_alembic", half)
    with pytest.raises(KeyboardInterrupt):
        Store.open(url, create=True)
    monkeypatch.undo()
    assert schema_version(url) is None
    Store.open(url, create=True).close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tlsearch.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "mysql://ann:s3cret-word@host/studies",
        "mysql+pymysql://ann:s3cret-word@host/studies",
        "postgresql+asyncpg://ann:s3cret-word@host/studies",
        "postgresql:ann:s3cret-word@host/studies",
        "ann:s3cret-word@host/studies",
        "postgresql://ann:s3cret-word",
        "postgresql://ann:s3cret-word@host:port/studies",
        "postgresql://ann:half@s3cret-word@host/studies",
        "postgresql://ann@host:x/studies?password=s3cret-word&sslmode=no",
        "postgresql://ann:p@ss/s3cret-word@host/studies",
        "postgresql://ann:p@s3cret-word/x@host/studies",
        "postgresql://ann:p/s3cret-word@x@host/studies",
        "postgresql://ann/s3cret-word:x@host/studies",
        "postgresql://ann:12/s3cret-word@host/studies",
        "postgresql://ann:12#s3cret-word@p@host/studies",
        "postgresql://ann:p@ss#s3cret-word@host/studies",
        "postgresql://ann:p@ss?s3cret-word@host/studies",
        "postgresql://ann:a?b@s3cret-word@host/studies",
        "postgresql://ann:s3cret-word/x",
        "postgresql://ann:s3cret-word#x@",
        "postgresql:///s3cret-word@host/studies",
        "postgresql:/ann:s3cret-word@host/studies",
        "postgresql//ann:s3cret-word@host/studies",
        "mysql://ann:p@ss/s3cret-word@host/studies",
        "sqlite://ann:s3cret-word@host/studies",
        "sqlite://ann:p@ss/s3cret-word@host/studies",
        "host=db user=ann password=s3cret-word",
        "postgresql://ann:p ass s3cret-word@ho st/stud@ies",
        "postgresql ://ann:s3cret-word@host/studies",
        "ann:p#s3cret-word",
    ],
)
@pytest.mark.parametrize("create_it", [False, True])
def test_bad_urls_are_named_without_their_password(url: str, create_it: bool) -> None:
    with pytest.raises(DatabaseError) as caught:
        Store.open(url, create=create_it)
    printed = "".join(traceback.format_exception(caught.value))
    assert "s3cret-word" not in printed
    assert caught.value.hint


def test_a_path_is_answered_with_its_url() -> None:
    with pytest.raises(DatabaseError) as caught:
        Store.open("runs/tlsearch.db")
    assert caught.value.hint == 'For a file write "sqlite:///runs/tlsearch.db".'


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_unreachable_server(scheme: str) -> None:
    started = time.monotonic()
    password = "s3cr" + "et%2Fword"  # in two, so that a traceback's source lines don't hold it
    url = f"{scheme}://ann:{password}@127.0.0.1:1/studies?sslpassword={password}"
    with pytest.raises(DatabaseError, match="can't be reached") as caught:
        Store.open(url)
    assert time.monotonic() - started < 15
    printed = "".join(traceback.format_exception(caught.value))
    assert "ann:***@127.0.0.1:1/studies" in printed
    assert "s3cret" not in printed


def test_wrong_password(postgresql: Any, postgresql_url: str) -> None:
    rules = postgresql.pgdata / "pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE ann LOGIN SUPERUSER PASSWORD 'right-word'")
        try:
            rules.write_text("local all ann scram-sha-256\n" + before)
            connection.execute("SELECT pg_reload_conf()")
            time.sleep(0.2)
            place = postgresql_url.partition("@")[2]
            wrong = "wr0ng-" + "word"  # so that a traceback's source lines don't hold it
            with pytest.raises(
                DatabaseError, match='password authentication failed for user "ann"'
            ) as caught:
                Store.open(f"postgresql://ann:{wrong}@{place}", create=True)
            assert wrong not in "".join(traceback.format_exception(caught.value))
            with Store.open(f"postgres://ann:right-word@{place}", create=True) as store:
                assert store.studies() == []
                assert "right-word" not in f"{store._database.address!r} {store._database.address}"
        finally:
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("DROP OWNED BY ann")
            connection.execute("DROP ROLE ann")


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Root may write everything; for a while be somebody who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_file_can_be_read_and_not_written() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tlsearch.db"
        with Store.open(f"sqlite:///{path}", create=True) as store:
            create(store)
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        try:
            with an_ordinary_user(), Store.open(f"sqlite:///{path}") as store:
                assert store.study("flowers").metric == "accuracy"
                with pytest.raises(DatabaseError, match=r"tlsearch\.db is read-only here"):
                    store.acquire("flowers", owner="ann@host:1:0")
        finally:
            Path(folder).chmod(0o755)


def test_a_lock_is_waited_for_and_then_named(sqlite_url: str) -> None:
    with Store.open(sqlite_url, create=True, patience=10) as store:
        create(store)
        other = sqlite3.connect(parse(sqlite_url).path or "", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        waiting = threading.Timer(0.7, lambda: other.execute("COMMIT"))
        waiting.start()
        assert store.study("flowers").name == "flowers"  # a reader waits as well
        waiting.join()
    with Store.open(sqlite_url, patience=0.3) as store:
        other.execute("BEGIN IMMEDIATE")
        assert store.study("flowers").name == "flowers"  # and isn't held up by one who prepares to write
        with pytest.raises(DatabaseError, match=r"locked by another process for 0\.3 s"):
            store.acquire("flowers", owner="ann@host:1:0")
        other.execute("COMMIT")
        other.close()
        assert store.acquire("flowers", owner="ann@host:1:0").token == 1


def test_sqlite_is_set_up_to_survive_power_cuts(sqlite_url: str) -> None:
    with Store.open(sqlite_url, create=True) as store, store._database.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "delete", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_check_tells_damage(sqlite_url: str) -> None:
    with Store.open(sqlite_url, create=True) as store:
        create(store)
        execute(sqlite_url, "UPDATE studies SET dataset_id = 77")
        assert store.check() == ["row 1 of studies belongs to a row of datasets that isn't there"]
        path = Path(sqlite_url.removeprefix("sqlite:///"))
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        path.write_bytes(content)
        assert store.check() != []


def test_opening_to_read_imports_neither_alembic_nor_the_other_driver(sqlite_url: str) -> None:
    Store.open(sqlite_url, create=True).close()
    script = (
        "import sys; from tlsearch.database.store import Store; Store.open(sys.argv[1]).studies(); "
        "print([name for name in ('alembic', 'psycopg', 'optuna', 'torch', 'ray') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, sqlite_url], capture_output=True, text=True, check=True, timeout=550
    )
    assert answer.stdout.strip() == "[]"


def test_a_name_is_taken_once_though_all_ask_at_the_same_time(url: str) -> None:
    outcomes: list[str] = []

    def ask() -> None:
        with Store.open(url, create=True) as store:
            try:
                create(store)
                outcomes.append("made")
            except StudyConflictError:
                outcomes.append("taken")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", *["taken"] * 7]


def test_a_database_that_says_it_has_two_schemas_is_refused(url: str) -> None:
    Store.open(url, create=True).close()
    execute(url, f"INSERT INTO {schema.VERSION_TABLE} (version_num) VALUES ('0001')")
    for attempt in (lambda: Store.open(url), lambda: Store.open(url, create=True), lambda: upgrade(url)):
        with pytest.raises(DatabaseError, match="several schemas at once: 0001, 0004") as caught:
            attempt()
        assert "one row" in str(caught.value)


def test_no_part_of_a_password_is_shown_where_the_host_was_forgotten() -> None:
    for url in (
        "postgresql://ann:p@secretpart.invalid/w0rdpart",
        "postgresql://ann:p@secretpart.invalid/w@w0rdpart",
        "postgresql://ann:secretpart.invalid",
    ):
        with pytest.raises(DatabaseError) as caught:
            Store.open(url, patience=0.1)
        assert not re.search("secretpart|w0rdpart", str(caught.value)), str(caught.value)
        assert "write @ as %40" in str(caught.value)
