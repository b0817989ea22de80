"""Where a study database is: its URL, read strictly, and what of it may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tlsearch.errors import DatabaseError
from tlsearch.urls import ESCAPES, NOT_SHOWN, public

EXAMPLES = "Example: sqlite:///tlsearch.db or postgresql://user@host/database."

_SECRET_KEYS = ("password", "sslpassword", "passfile")
_SHOWN_KEYS = ("host", "port", "dbname")
_HOST = re.compile(r"[\w.:-]*")
_NAME = re.compile(r"[^@:/?#]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is. ``str(address)`` is fit to be shown: it has no password.

    ``path`` is the file of a SQLite database, None on PostgreSQL.
    """

    url: URL = field(repr=False)
    shown: str
    path: Path | None
    secrets: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def has_password(self) -> bool:
        """Whether one is in the URL."""
        return bool(self.url.password) or any(key in self.url.query for key in _SECRET_KEYS)

    def mask(self, text: str) -> str:
        """The text without this address's passwords, as they are or percent-encoded."""
        for secret in self.secrets:
            for spelling in {secret, quote(secret, safe=""), quote_plus(secret)}:
                text = text.replace(spelling, "***")
        return text


def parse(url: str) -> Address:
    """Read a database URL; DatabaseError if it isn't one of a SQLite file or a PostgreSQL server."""
    try:
        parsed = make_url(url)
        dialect, _, driver = parsed.drivername.partition("+")
    except (ArgumentError, ValueError):
        raise DatabaseError(f"{_called(url)} is not a database URL.", hint=_suggest(url)) from None
    if dialect == "sqlite" and driver in ("", "pysqlite"):
        return _sqlite_address(parsed)
    if dialect in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return _postgresql_address(parsed, url)
    raise DatabaseError(
        f"Studies are kept in SQLite or PostgreSQL, and {_called(url)} is neither.", hint=EXAMPLES
    )


def _sqlite_address(url: URL) -> Address:
    if url.query or url.host or url.username is not None:
        # A host in it makes its path absolute where one was meant; anything may stand there.
        name = Path(url.database or "tlsearch.db").name
        raise DatabaseError(
            "A SQLite URL is sqlite:///PATH, with no host and no options.",
            hint=f"For an absolute path write four slashes: sqlite:////srv/{name}."
            if _NAME.fullmatch(name)
            else EXAMPLES,
        )
    if not url.database or url.database == ":memory:":
        raise DatabaseError("A SQLite database needs a file; got one in memory.", hint=EXAMPLES)
    path = Path(url.database).expanduser().absolute()
    return Address(url=url, shown=str(path), path=path, secrets=())


def _postgresql_address(url: URL, given: str) -> Address:
    # SQLAlchemy takes a password up to the first @, and the rest for host and database. Where there is
    # another @, or one of these holds what parts a URL, a piece of a password would be shown as one of them.
    parts = url.username or "", url.database or ""
    odd = (
        given.count("@") > 1
        or (given.count("@") == 1 and url.username is None and url.password is None)
        or not _HOST.fullmatch(url.host or "")
        or not all(_NAME.fullmatch(part) for part in parts)
        or not 0 <= (url.port or 0) <= 65535
        or "#" in given.rpartition("@")[2]
    )
    if odd:
        raise DatabaseError(
            f"The database URL can't be read safely {NOT_SHOWN}.", hint=f"{ESCAPES} {EXAMPLES}"
        )
    url = url.set(drivername="postgresql+psycopg")
    query = {key: value for key, value in url.query.items() if key in _SHOWN_KEYS}
    secrets = [url.password, *(url.query.get(key) for key in _SECRET_KEYS)]
    return Address(
        url=url,
        shown=url.set(drivername="postgresql", query=query).render_as_string(hide_password=True),
        path=None,
        # Masking one or two letters would only make the message unreadable.
        secrets=tuple(str(secret) for secret in secrets if secret and len(str(secret)) > 2),
    )


def _called(url: str) -> str:
    shown = public(url)
    return f"The URL {shown}" if shown == NOT_SHOWN else f'"{shown}"'


def _suggest(url: str) -> str:
    if "://" in url or not url.strip() or public(url) == NOT_SHOWN:
        return f"{ESCAPES} {EXAMPLES}" if url.strip() else EXAMPLES
    return f'For a file write "sqlite:///{url}".'


def url_of(path: Path) -> str:
    """The URL of a SQLite file, whatever its folders are called."""
    # Only what would begin the options needs an escape; the path is taken as it is otherwise.
    return URL.create("sqlite", database=str(path)).render_as_string()
