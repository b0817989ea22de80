"""Writing trials: whole batches in a few statements, within a transaction that holds the study."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from tlsearch.database.engine import upsert
from tlsearch.database.rows import ended_values, epoch_values, now, point_values, started_values
from tlsearch.database.tables import EPOCHS, TRIALS
from tlsearch.errors import StudyConflictError
from tlsearch.records import EpochResult, Outcome, Point, TrialState

_CHUNK = 1000  # numbers in one IN (...); SQLite takes 32,766 parameters, PostgreSQL 65,535
_POINT = ("backbone", "strategy", "params", "seed", "role", "confirms")
_NEVER_AGAIN = (TrialState.COMPLETE.value, TrialState.PRUNED.value)


def start_trials(
    connection: Connection, study_id: int, points: Sequence[Point], *, node: str, keep_epochs: bool
) -> None:
    """Store the points as RUNNING trials; a later attempt takes over the row of the one before."""
    stored = _stored(connection, study_id, [point.number for point in points])
    fresh: dict[int, dict[str, Any]] = {}
    again: dict[int, dict[str, Any]] = {}
    for point in points:
        row = stored.get(point.number)
        if row is None:
            fresh[point.number] = {"study_id": study_id, **started_values(point, node=node)}
        elif point.attempt > row.attempt:
            if row.state in _NEVER_AGAIN:
                raise StudyConflictError(f"Trial {point.number} is {row.state} and can't run again.")
            again[row.id] = {"row_id": row.id, **started_values(point, node=node)}
        elif point.attempt == row.attempt:
            _check_same(point, row)
    if fresh:
        connection.execute(insert(TRIALS), list(fresh.values()))
    if again:
        if not keep_epochs:
            for ids in _chunks(again):
                connection.execute(delete(EPOCHS).where(EPOCHS.c.trial_id.in_(ids)))
        _update(connection, list(again.values()))


def record(connection: Connection, study_id: int, results: Sequence[EpochResult]) -> list[EpochResult]:
    """Store epochs and outcomes; answers the results that came too late and were not stored."""
    stored = _stored(connection, study_id, {result.number for result in results})
    ended: dict[int, dict[str, Any]] = {}
    moved: dict[int, dict[str, Any]] = {}
    epochs: dict[tuple[int, int, int], dict[str, Any]] = {}
    refused: list[EpochResult] = []
    for result in results:
        row = stored.get(result.number)
        late = row is None or row.attempt != result.attempt or row.state != TrialState.RUNNING
        if row is None or late or row.id in ended:
            refused.append(result)
            continue
        if result.epoch > 0:  # a trial that failed at once has no learning curve
            epochs[row.id, result.attempt, result.epoch] = epoch_values(row.id, result)
        if result.node and result.node != row.node:
            moved[row.id] = {"row_id": row.id, "node": result.node}
        if result.outcome is not None:
            ended[row.id] = {"row_id": row.id, **ended_values(result.outcome)}
    if epochs:
        statement = upsert(connection, EPOCHS)
        new = {name: statement.excluded[name] for name in ("value", "metrics", "seconds")}
        keys = [EPOCHS.c.trial_id, EPOCHS.c.attempt, EPOCHS.c.epoch]
        connection.execute(
            statement.on_conflict_do_update(index_elements=keys, set_=new), list(epochs.values())
        )
    for rows in (moved, ended):
        if rows:
            _update(connection, list(rows.values()))
    return refused


def end_trials(
    connection: Connection,
    study_id: int,
    numbers: Iterable[int],
    *,
    state: TrialState,
    reason: str,
    outcomes: Mapping[int, Outcome],
) -> list[int]:
    """End those of the trials that still run; answers their numbers."""
    if not TrialState(state).final:
        raise ValueError(f"a trial can't end as {state}")
    running = {
        number: row
        for number, row in _stored(connection, study_id, numbers).items()
        if row.state == TrialState.RUNNING
    }
    plain, told = [], []
    for number, row in running.items():
        if number in outcomes:
            told.append({"row_id": row.id, **ended_values(outcomes[number])})
        else:
            ending = {"state": TrialState(state).value, "reason": reason, "finished": now()}
            plain.append({"row_id": row.id, **ending})
    for rows in (plain, told):
        if rows:
            _update(connection, rows)
    return sorted(running)


def forget_artifacts(connection: Connection, study_id: int, numbers: Iterable[int]) -> None:
    """Note that the files of these trials are gone."""
    for chunk in _chunks(numbers):
        connection.execute(
            update(TRIALS)
            .where(TRIALS.c.study_id == study_id, TRIALS.c.number.in_(chunk))
            .values(artifact_uri=None, artifact_sha256=None, artifact_bytes=None)
        )


def _stored(connection: Connection, study_id: int, numbers: Iterable[int]) -> dict[int, Row[Any]]:
    columns = [TRIALS.c[name] for name in ("id", "number", "attempt", "state", "node", *_POINT)]
    query = select(*columns).where(TRIALS.c.study_id == study_id)
    return {
        row.number: row
        for chunk in _chunks(numbers)
        for row in connection.execute(query.where(TRIALS.c.number.in_(chunk)))
    }


def _check_same(point: Point, row: Row[Any]) -> None:
    proposed = point_values(point)
    other = [name for name in _POINT if proposed[name] != getattr(row, name)]
    if other:
        raise StudyConflictError(
            f"Trial {point.number} is stored already with another {', '.join(other)}.",
            hint="A point that differs needs the next free number.",
        )


def _update(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """UPDATE by id, all rows having the same keys."""
    columns: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name != "row_id"}
    connection.execute(update(TRIALS).where(TRIALS.c.id == bindparam("row_id")).values(columns), rows)


def _chunks(numbers: Iterable[int]) -> Iterator[list[int]]:
    unique = sorted(set(numbers))
    for start in range(0, len(unique), _CHUNK):
        yield unique[start : start + _CHUNK]
