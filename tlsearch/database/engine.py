"""Reaching a database: its engine, and what a transaction means on it.

SQLite: write transactions start with ``BEGIN IMMEDIATE``. A plain ``BEGIN`` that reads before it writes
loses inserts to locks as soon as a second process writes. The journal stays in SQLite's own default mode,
DELETE, with ``synchronous=FULL``: SQLite before 3.51.3 can corrupt a write-ahead log on reset.

PostgreSQL: a transaction whose connection dropped is tried again until the server is back or the patience
is over. Its commit may have gone through unseen, so whoever writes must tell: see ``leases.fenced``.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from tlsearch.database.address import EXAMPLES, Address
from tlsearch.errors import DatabaseError, UnreachableError
from tlsearch.urls import ESCAPES, NOT_SHOWN

T = TypeVar("T")

_NO_HOST = "resolve host"
"""In what psycopg says of a host that nobody knows."""
PATIENCE = 30.0
"""Seconds to wait for another process's lock, or for a server that went away."""


class Database:
    """One database: ``read`` and ``write`` run a function in a transaction and answer its result.

    Every failure of the database comes out as a DatabaseError that names the address without its
    password. An instance may be used by many threads.
    """

    def __init__(self, address: Address, *, create: bool = False, patience: float = PATIENCE) -> None:
        self.address = address
        self.patience = patience
        self._settled = False
        self._away_since: float | None = None
        # One write at a time and store, so that no other write comes between a try and its repetition.
        self._writing = threading.Lock()
        try:
            if address.path is not None:
                self.engine = _sqlite_engine(address.path, create=create, patience=patience)
            else:
                self.engine = _postgresql_engine(address.url)
        except (SQLAlchemyError, ImportError, ValueError, TypeError) as error:
            raise self.translate(error) from None
        self._writer = self.engine.execution_options(tlsearch_write=True)

    def read(self, body: Callable[[Connection], T]) -> T:
        """Run a function that only reads."""
        return self._run(self.engine, body)

    def write(self, body: Callable[[Connection], T]) -> T:
        """Run a function that writes. It must bear being run again after a commit that went through."""
        with self._writing:
            return self._run(self._writer, body)

    def settle(self) -> None:
        """From here on a server that can't be reached is one that went away, and is waited for."""
        self._settled = True

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()

    def _run(self, engine: Engine, body: Callable[[Connection], T]) -> T:
        deadline: float | None = None
        pause = 0.1
        while True:
            try:
                with engine.begin() as connection:
                    answer = body(connection)
                self._away_since = None
                return answer
            except DBAPIError as error:
                now = time.monotonic()
                if not (self._settled and _worth_repeating(error)):
                    raise self.translate(error) from None
                # Who meets a server that has been away for long doesn't wait all that time once more.
                self._away_since = away = now if self._away_since is None else self._away_since
                deadline = away + self.patience if deadline is None else deadline
                if now + pause > deadline:
                    raise self.translate(error) from None
            except SQLAlchemyError as error:
                raise self.translate(error) from None
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def translate(self, error: Exception) -> DatabaseError:
        """What a user is told of a failure."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        text = self.address.mask(" ".join(str(cause).split()))
        if self.address.path is not None:
            return _sqlite_error(self.address, text, self.patience)
        if isinstance(error, OperationalError) and self.address.has_password and _NO_HOST in text:
            # Of user:p@ss/word, whose host was forgotten, "ss" looks like a host and "word" like a database.
            return UnreachableError(
                f"There is no host of the name in the database URL {NOT_SHOWN}.",
                hint=f"{ESCAPES} {EXAMPLES}",
            )
        if isinstance(error, OperationalError):
            return UnreachableError(
                f"The study database {self.address} can't be reached: {text}",
                hint="Check that the server runs, and the user, password and database in the URL.",
            )
        return DatabaseError(f"The study database {self.address} refused: {text}")


def _sqlite_engine(path: Path, *, create: bool, patience: float) -> Engine:
    if not path.parent.is_dir():
        raise DatabaseError(f"No directory {path.parent} for the study database {path.name}.")
    if path.is_dir():
        raise DatabaseError(f"{path} is a directory, not a study database.", hint=EXAMPLES)
    # By SQLite's own URI a reader can't create the file, not even one that vanished a moment ago.
    place = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        # isolation_level=None keeps the driver from starting transactions of its own.
        connection = sqlite3.connect(
            place, uri=True, timeout=patience, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    # No pool: an idle connection would save a fraction of a millisecond and outlive a fork.
    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=NullPool,
        json_serializer=dump,
        hide_parameters=True,
        execution_options={"tlsearch_home": path.resolve().parent},
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("tlsearch_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    defaults: dict[str, Any] = {
        "application_name": "tlsearch",
        "connect_timeout": 10,
        # A server that vanished without a word is noticed within half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    return create_engine(
        url,
        connect_args={key: value for key, value in defaults.items() if key not in url.query},
        pool_pre_ping=True,
        json_serializer=dump,
        hide_parameters=True,
    )


def _worth_repeating(error: DBAPIError) -> bool:
    """Whether the connection was lost, the server is starting, or two transactions were in conflict."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError) or isinstance(error.orig, sqlite3.Error):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in ("08", "40") or state in ("57P01", "57P02", "57P03", "53300")


def _sqlite_error(address: Address, text: str, patience: float) -> DatabaseError:
    if "locked" in text:
        return DatabaseError(
            f"The study database {address} has been locked by another process for {patience:g} s.",
            hint="Find the program that holds it open (`fuser` on the file names it) and end it.",
        )
    if "not a database" in text:
        return DatabaseError(
            f"{address} is not a SQLite database.", hint="Name another with --db or TLSEARCH_DB."
        )
    if "readonly" in text:
        return DatabaseError(
            f"The study database {address} is read-only here.",
            hint="Make the file and its directory writable, or name another with --db or TLSEARCH_DB.",
        )
    if "malformed" in text:
        return DatabaseError(
            f"The study database {address} is damaged: {text}", hint="Run `tlsearch doctor`."
        )
    if "full" in text:
        return DatabaseError(
            f"The disk of the study database {address} is full.",
            hint="Make room; what was stored before is intact.",
        )
    return DatabaseError(f"The study database {address} can't be used: {text}")


def dump(value: Any) -> str:
    """JSON as both databases take it: NaN and infinities are refused, NumPy's numbers are numbers."""
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "items"):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be stored as JSON")


def database_time(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, at this moment and not at the transaction's start."""
    if connection.dialect.name == "sqlite":
        query = "SELECT (julianday('now') - 2440587.5) * 86400.0"
    else:
        query = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
    return float(connection.exec_driver_sql(query).scalar_one())


def upsert(connection: Connection, table: Any) -> Any:
    """An INSERT that knows ON CONFLICT, in the connection's dialect."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table)
