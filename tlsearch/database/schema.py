"""Which schema a database has, and bringing it to the one this version knows.

Alembic takes 0.2 s to import and is needed only to create or upgrade, so ``REVISIONS`` repeats what its
scripts say; a test holds the two against each other.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from tlsearch.database.address import parse
from tlsearch.database.engine import Database
from tlsearch.database.tables import Base
from tlsearch.errors import DatabaseError

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every schema version there was, oldest first; the last is the one the code works with."""

VERSION_TABLE = "tlsearch_alembic_version"

_ADVISORY_LOCK = 7_462_310_815  # any number, the same in every process


def schema_version(url: str) -> str | None:
    """The schema version of a database, None if it holds no studies. Nothing is created."""
    database = _existing(url)
    try:
        return database.read(_version)
    finally:
        database.close()


def exists(url: str) -> bool:
    """Whether there is a study database that can be written to. Nothing is created.

    Raises:
        DatabaseError: it can't be reached, isn't one, is too new, is read-only, or can't be made there.
    """
    address = parse(url)
    if address.path is not None:
        there = address.path.exists()
        place = address.path if there else address.path.parent
        if not place.exists():
            raise DatabaseError(f"No directory {place} for the study database {address.path.name}.")
        if not os.access(place, os.W_OK):
            raise DatabaseError(
                f"{place} is read-only: no study can be stored there.",
                hint="Make it writable, or name another database with --db or TLSEARCH_DB.",
            )
        if not there:
            return False
    database = Database(address)
    try:
        found = database.read(_version)
        return found is not None and _known(found, database) == REVISIONS[-1]
    finally:
        database.close()


def upgrade(url: str) -> tuple[str, str]:
    """Bring an existing study database to the newest schema; answers the versions before and after."""
    database = _existing(url)
    try:
        before = _known(database.read(_version), database)
        _migrate(database)
    finally:
        database.close()
    return before, REVISIONS[-1]


def connect(url: str, *, create: bool, patience: float) -> Database:
    """A database whose schema is the newest one.

    With ``create`` it is made or upgraded, by one process while others wait. Without, a database that
    is missing or has another schema is a DatabaseError and nothing is written.
    """
    database = Database(parse(url), create=True, patience=patience) if create else _existing(url, patience)
    try:
        found = database.read(_version)
        if create and found != REVISIONS[-1]:
            if found is not None:
                _known(found, database)
            _migrate(database)
        elif _known(found, database) != REVISIONS[-1]:
            raise DatabaseError(
                f'The study database {database.address} has schema "{found}", older than '
                f'"{REVISIONS[-1]}" that this tlsearch works with.',
                hint="Run `tlsearch db upgrade`; make a copy first.",
            )
    except BaseException:
        database.close()
        raise
    database.settle()
    return database


def _existing(url: str, patience: float | None = None) -> Database:
    address = parse(url)
    if address.path is not None and not address.path.exists():
        raise _missing(f"No study database at {address}.")
    return Database(address) if patience is None else Database(address, patience=patience)


def _missing(message: str) -> DatabaseError:
    return DatabaseError(
        message, hint="`tlsearch run` makes one; or name one with --db or the variable TLSEARCH_DB."
    )


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
    if len(found) > 1:
        raise DatabaseError(
            f"The study database says it has several schemas at once: {', '.join(sorted(map(str, found)))}.",
            hint=f"The table {VERSION_TABLE} must have one row. Restore a copy of the database, or delete "
            "the rows that it didn't have before.",
        )
    return str(found[0]) if found else None


def _known(found: str | None, database: Database) -> str:
    if found is None:
        raise _missing(f"The database {database.address} holds no studies.")
    if found not in REVISIONS:
        raise DatabaseError(
            f'The study database {database.address} has schema "{found}"; '
            f'this tlsearch knows "{REVISIONS[-1]}" and older.',
            hint="A newer tlsearch wrote it: upgrade tlsearch, or name another with --db or TLSEARCH_DB.",
        )
    return found


def _migrate(database: Database) -> None:
    # Both databases roll back a half-done CREATE or ALTER, so a killed upgrade leaves the old schema.
    # On SQLite the write transaction is the lock; a lock file would be left lying about.
    def locked(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        found = _version(connection)
        if found == REVISIONS[-1]:
            return  # another process was faster
        if found is None:
            _refuse_strangers(connection, database)
        run_alembic(connection)

    database.write(locked)


def _refuse_strangers(connection: Connection, database: Database) -> None:
    taken = sorted(set(inspect(connection).get_table_names()) & set(Base.metadata.tables))
    if taken:
        raise DatabaseError(
            f"The database {database.address} has tables that are not tlsearch's: {', '.join(taken)}.",
            hint="Optuna calls its tables so, too. Name another database with --db or TLSEARCH_DB.",
        )


def run_alembic(connection: Connection, revision: str = "head") -> None:
    """Migrate within the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def check(connection: Connection) -> list[str]:
    """What the database finds wrong with itself."""
    if connection.dialect.name != "sqlite":
        return []  # PostgreSQL holds its constraints by itself and checks pages as it reads them
    damage = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [str(line) for line in damage if line != "ok"] + [
        f"row {row[1]} of {row[0]} belongs to a row of {row[2]} that isn't there" for row in orphans
    ]
