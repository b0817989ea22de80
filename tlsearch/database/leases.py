"""Who may write to a study: one driver at a time, by a lease in database time with a fencing token.

Every taking of the lease raises the token. A driver that slept through its lease and comes back finds
another token and can write nothing, however late its results arrive (Kleppmann, "How to do distributed
locking"). A lease that ran out but that nobody took is still good.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, select, update

from tlsearch.database.engine import Database, database_time
from tlsearch.database.rows import moment, now
from tlsearch.database.tables import STUDIES, plain
from tlsearch.errors import StudyConflictError, UnknownNameError, did_you_mean
from tlsearch.names import composed
from tlsearch.records import StudyRequest, StudyState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a study, good until another driver takes it."""

    study: str
    token: int
    owner: str


def acquire(
    database: Database,
    study: str,
    *,
    owner: str,
    seconds: float,
    stale: Callable[[str], bool] | None,
    keep_request: bool,
) -> Lease:
    """Take the lease of a study; StudyConflictError where a living driver has it, or it was cancelled."""
    owner = plain(owner)  # it is compared with what is stored

    def body(connection: Connection, row: Row[Any]) -> Lease:
        time = database_time(connection)
        if row.lease_owner != owner:
            refuse_held(row, time=time, stale=stale)
        refuse_cancelled(row)
        if not keep_request:
            set_columns(connection, row, request=None, requested_by=None)
        lease = Lease(study=row.name, token=row.lease_token + 1, owner=owner)
        set_columns(
            connection,
            row,
            state=StudyState.RUNNING.value,
            reason="",
            lease_owner=owner,
            lease_token=lease.token,
            lease_since=time,
            lease_until=time + seconds,
        )
        return lease

    return once(database, study, body)


def renew(
    database: Database, lease: Lease, *, seconds: float, elapsed: float
) -> tuple[StudyRequest, str] | None:
    """Hold the lease for longer and add to the study's search time; answers what is asked, and by whom."""

    def body(connection: Connection, row: Row[Any]) -> tuple[StudyRequest, str] | None:
        until = database_time(connection) + seconds
        set_columns(connection, row, lease_until=until, seconds=row.seconds + max(elapsed, 0.0))
        return None if row.request is None else (StudyRequest(row.request), str(row.requested_by))

    return fenced(database, lease, body)


def release(database: Database, lease: Lease, *, state: StudyState, reason: str) -> None:
    """Give the lease back and say how the study stands."""
    if state in (StudyState.RUNNING, StudyState.CANCELLED):
        raise ValueError(f"a driver can't leave a study {state.value}")

    def body(connection: Connection, row: Row[Any]) -> None:
        # What was asked is done, or came too late; only a cancelled study stays so.
        cancelled = state is not StudyState.COMPLETE and row.request == StudyRequest.CANCEL
        set_columns(
            connection,
            row,
            state=StudyState(state).value,
            reason=reason,
            lease_owner=None,
            lease_since=None,
            lease_until=None,
            request=row.request if cancelled else None,
            requested_by=row.requested_by if cancelled else None,
        )

    fenced(database, lease, body)


def fenced(database: Database, lease: Lease, body: Callable[[Connection, Row[Any]], T]) -> T:
    """Run a write for the holder of the lease; StudyConflictError and nothing written for anybody else."""

    def checked(connection: Connection, row: Row[Any]) -> T:
        if (row.lease_owner, row.lease_token) != (lease.owner, lease.token):
            holder = f'"{row.lease_owner}" does' if row.lease_owner else "nobody does; it was released"
            raise StudyConflictError(
                f'"{lease.owner}" no longer runs study "{lease.study}": {holder}. Nothing was written.',
                hint="Run the study again to go on with it.",
            )
        return body(connection, row)

    return once(database, lease.study, checked)


def once(database: Database, study: str, body: Callable[[Connection, Row[Any]], T]) -> T:
    """Run a write on a study, exactly once even when the connection drops around its commit.

    The transaction leaves a stamp on the study. A repetition that finds its own stamp knows that the
    first try did commit, and answers what that one found.
    """
    stamp = uuid.uuid4().hex
    answers: list[T] = []

    def transaction(connection: Connection) -> T:
        row = locked(connection, study)
        if answers and row.last_write == stamp:
            return answers[-1]
        answer = body(connection, row)
        set_columns(connection, row, last_write=stamp, updated=now())
        answers.append(answer)
        return answer

    return database.write(transaction)


def locked(connection: Connection, study: str) -> Row[Any]:
    """The row of a study, held until the transaction ends; UnknownNameError if there is none.

    On SQLite the whole database is held already.
    """
    row = connection.execute(
        select(STUDIES).where(STUDIES.c.name == composed(study)).with_for_update()
    ).first()
    if row is None:
        raise unknown_study(connection, study)
    return row


def held(row: Row[Any], *, time: float, stale: Callable[[str], bool] | None) -> bool:
    """Whether a driver that may be alive holds the study."""
    if row.lease_owner is None or row.lease_until <= time:
        return False
    return stale is None or not stale(row.lease_owner)


def refuse_cancelled(row: Row[Any]) -> None:
    """StudyConflictError if the study was cancelled."""
    if row.request == StudyRequest.CANCEL:
        raise StudyConflictError(
            f'Study "{row.name}" was cancelled by {row.requested_by}.',
            hint=f"To go on from what it found: `tlsearch study fork {row.name} NEW`.",
        )


def refuse_held(row: Row[Any], *, time: float, stale: Callable[[str], bool] | None) -> None:
    """StudyConflictError if a driver that may be alive holds the study."""
    if not held(row, time=time, stale=stale):
        return
    raise StudyConflictError(
        f'Study "{row.name}" is being run by "{row.lease_owner}" since {moment(row.lease_since)}, '
        f"at least until {moment(row.lease_until)}.",
        hint="Wait for it, stop it, or give your study another name.",
    )


def refuse_if_held(connection: Connection, study: str, *, stale: Callable[[str], bool] | None) -> None:
    """StudyConflictError where ``acquire`` would refuse."""
    row = connection.execute(select(STUDIES).where(STUDIES.c.name == composed(study))).first()
    if row is None:
        raise unknown_study(connection, study)
    refuse_held(row, time=database_time(connection), stale=stale)
    refuse_cancelled(row)


LISTED = 10
"""Studies that are listed where one is asked for that isn't there."""


def unknown_study(connection: Connection, study: str) -> UnknownNameError:
    """The error for a study that isn't there."""
    names = connection.execute(select(STUDIES.c.name)).scalars().all()
    guess = did_you_mean(study, names)
    return UnknownNameError(
        f'No study "{study}" in the database.{" " + guess if guess else ""}',
        hint=f"There are: {', '.join(sorted(names)[:LISTED])}."
        if 0 < len(names) <= LISTED
        else "`tlsearch study list` lists what there is.",
    )


def set_columns(connection: Connection, row: Row[Any], **values: Any) -> None:
    """Write columns of a study that is locked."""
    connection.execute(update(STUDIES).where(STUDIES.c.id == row.id).values(**values))
