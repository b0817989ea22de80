"""What people ask of each other's drivers, and what studies on one cluster weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from tlsearch.database.engine import Database, database_time
from tlsearch.database.leases import held, once, set_columns
from tlsearch.database.rows import moment
from tlsearch.database.tables import STUDIES, TRIALS, plain
from tlsearch.database.writes import end_trials
from tlsearch.errors import StudyConflictError
from tlsearch.records import StudyRequest, StudyState, TrialState


@dataclass(frozen=True, slots=True)
class Sharer:
    """A study that is run on a cluster now. ``cap`` is its own limit of trials at once, if it has one."""

    study: str
    priority: int
    cap: int | None


def ask(
    database: Database,
    study: str,
    action: StudyRequest,
    *,
    by: str,
    stale: Callable[[str], bool] | None,
) -> bool:
    """Ask a study to pause or to end for good; answers whether a driver is there that has yet to do it.

    Raises:
        StudyConflictError: there is nothing to pause, or nothing to cancel.
    """
    by = plain(by)

    def body(connection: Connection, row: Row[Any]) -> bool:
        driven = held(row, time=database_time(connection), stale=stale)
        if row.request == StudyRequest.CANCEL:
            raise StudyConflictError(f'Study "{study}" was cancelled by {row.requested_by} already.')
        if not driven and row.state == StudyState.COMPLETE:
            raise StudyConflictError(f'Study "{study}" is complete: there is nothing to {action.value}.')
        if not driven and action is StudyRequest.PAUSE:
            raise StudyConflictError(
                f'Nobody runs study "{study}": there is nothing to pause. '
                f"It was last heard of {moment(row.updated)}."
            )
        set_columns(connection, row, request=action.value, requested_by=by)
        if not driven:
            query = select(TRIALS.c.number).where(
                TRIALS.c.study_id == row.id, TRIALS.c.state == TrialState.RUNNING.value
            )
            open_ = list(connection.execute(query).scalars())
            reason = f"the study was cancelled by {by}"
            end_trials(connection, row.id, open_, state=TrialState.CANCELLED, reason=reason, outcomes={})
            # Whoever still thinks that he runs it is fenced off.
            set_columns(
                connection,
                row,
                state=StudyState.INTERRUPTED.value,
                lease_owner=None,
                lease_since=None,
                lease_until=None,
            )
        return driven

    return once(database, study, body)


def sharers(connection: Connection, cluster: str) -> list[Sharer]:
    """The studies that living drivers run on a cluster, by name."""
    time = database_time(connection)
    query = (
        select(STUDIES.c.name, STUDIES.c.priority, STUDIES.c.spec)
        .where(
            STUDIES.c.state == StudyState.RUNNING.value,
            STUDIES.c.cluster == cluster,
            STUDIES.c.lease_until >= time,
        )
        .order_by(STUDIES.c.name)
    )
    return [
        Sharer(row.name, row.priority, (row.spec.get("resources") or {}).get("concurrent"))
        for row in connection.execute(query)
    ]
