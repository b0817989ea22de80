"""Reading trials and studies, as records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from tlsearch.database.engine import database_time
from tlsearch.database.leases import unknown_study
from tlsearch.database.places import home
from tlsearch.database.rows import Counted, curve, study_record, trial_record
from tlsearch.database.tables import DATASETS, EPOCHS, MODELS, STUDIES, TRIALS
from tlsearch.errors import UnknownNameError, did_you_mean
from tlsearch.names import composed
from tlsearch.records import EpochRecord, StudyRecord, TrialRecord, TrialRole, TrialState

SORTABLE = (
    "number",
    "value",
    "state",
    "strategy",
    "backbone",
    "freeze_depth",
    "role",
    "attempt",
    "seconds",
    "flops",
    "trainable_parameters",
    "total_parameters",
    "started",
    "finished",
)
"""What ``trials`` can be sorted by."""


def study_row(connection: Connection, study: str) -> Row[Any]:
    """The row of a study; UnknownNameError if there is none."""
    row = connection.execute(_studies().where(STUDIES.c.name == composed(study))).first()
    if row is None:
        raise unknown_study(connection, study)
    return row


def studies(connection: Connection, name: str | None = None) -> list[StudyRecord]:
    """All studies, oldest first, or the one of that name."""
    query = _studies().add_columns(_kept().label("kept")).order_by(STUDIES.c.id)
    if name is not None:
        query = query.where(STUDIES.c.name == composed(name))
    rows = connection.execute(query).all()
    time = database_time(connection)
    counted = _counts(connection, None if name is None else [row.id for row in rows])
    folder = home(connection)
    return [study_record(row, counted.get(row.id, Counted()), database_now=time, home=folder) for row in rows]


def study(connection: Connection, name: str) -> StudyRecord:
    """The study of that name; UnknownNameError if there is none."""
    found = studies(connection, name)
    if not found:
        raise unknown_study(connection, name)
    return found[0]


def counts(connection: Connection, study: str) -> Mapping[TrialState, int]:
    """How many trials are in each state, whatever they are there for."""
    row = study_row(connection, study)
    return _counts(connection, [row.id]).get(row.id, Counted()).of_all


def trials(
    connection: Connection,
    study: str,
    *,
    states: Collection[TrialState] | None,
    strategy: str | None,
    backbone: str | None,
    role: TrialRole | None,
    sort: str,
    descending: bool,
    limit: int | None,
    offset: int,
) -> list[TrialRecord]:
    """The trials that pass all filters; those without the value that is sorted by come last."""
    if sort not in SORTABLE:
        guess = did_you_mean(sort, SORTABLE)
        raise UnknownNameError(
            f'Trials can\'t be sorted by "{sort}".{" " + guess if guess else ""}',
            hint=f"Sort by one of {', '.join(SORTABLE)}.",
        )
    row = study_row(connection, study)
    query = select(TRIALS).where(
        TRIALS.c.study_id == row.id, *_named(strategy=strategy, backbone=backbone, role=role)
    )
    if states is not None:
        query = query.where(TRIALS.c.state.in_([TrialState(state).value for state in states]))
    column = TRIALS.c[sort]
    order = [] if sort == "number" else [(column.desc() if descending else column.asc()).nulls_last()]
    if sort == "value":  # a refit's is of items that it has learned from: it comes after all others
        order = [(TRIALS.c.role == TrialRole.REFIT.value).asc(), *order]
    number = TRIALS.c.number.desc() if sort == "number" and descending else TRIALS.c.number
    return _records(connection, row.name, query.order_by(*order, number).limit(limit).offset(offset))


def best(
    connection: Connection,
    study: str,
    *,
    strategy: str | None,
    backbone: str | None,
    max_parameters: int | None,
    limit: int | None,
    role: TrialRole,
) -> list[TrialRecord]:
    """The complete trials with the best values; of equals those with weights, then the smaller model."""
    row = study_row(connection, study)
    query = select(TRIALS).where(
        TRIALS.c.study_id == row.id,
        TRIALS.c.state == TrialState.COMPLETE.value,
        TRIALS.c.value.is_not(None),
        *_named(strategy=strategy, backbone=backbone, role=role),
    )
    if max_parameters is not None:
        query = query.where(TRIALS.c.total_parameters <= max_parameters)
    value = TRIALS.c.value.desc() if row.direction == "maximize" else TRIALS.c.value.asc()
    gone = TRIALS.c.artifact_uri.is_(None)
    query = query.order_by(value, gone, TRIALS.c.total_parameters, TRIALS.c.number).limit(limit)
    return _records(connection, row.name, query)


def trial(connection: Connection, study: str, number: int) -> TrialRecord:
    """One trial; UnknownNameError if there is none of that number."""
    row = study_row(connection, study)
    return trial_record(row.name, _trial_row(connection, row, number), home=home(connection))


def epochs(connection: Connection, study: str, number: int) -> list[EpochRecord]:
    """The learning curve of a trial."""
    found = _trial_row(connection, study_row(connection, study), number)
    return curve(connection.execute(select(EPOCHS).where(EPOCHS.c.trial_id == found.id)).all())


def curves(connection: Connection, study: str) -> dict[int, list[EpochRecord]]:
    """The learning curves of all trials of a study that have one, by trial number."""
    row = study_row(connection, study)
    query = (
        select(TRIALS.c.number, EPOCHS)
        .join(EPOCHS, EPOCHS.c.trial_id == TRIALS.c.id)
        .where(TRIALS.c.study_id == row.id)
    )
    found: dict[int, list[Row[Any]]] = {}
    for epoch in connection.execute(query):
        found.setdefault(epoch.number, []).append(epoch)
    return {number: curve(rows) for number, rows in found.items()}


def study_ids(connection: Connection) -> dict[str, int]:
    """A number for each study's name that stays its own, oldest first."""
    query = select(STUDIES.c.name, STUDIES.c.id).order_by(STUDIES.c.id)
    return {row.name: row.id for row in connection.execute(query)}


def next_number(connection: Connection, study: str) -> int:
    """The first number that no trial of the study has had; numbers count from 0."""
    row = study_row(connection, study)
    last = connection.execute(
        select(func.max(TRIALS.c.number)).where(TRIALS.c.study_id == row.id)
    ).scalar_one()
    return 0 if last is None else last + 1


def _studies() -> Select[Any]:
    return select(STUDIES, DATASETS.c.fingerprint).join(DATASETS, DATASETS.c.id == STUDIES.c.dataset_id)


def _kept() -> ColumnElement[str | None]:
    """The place of a file or folder that a study keeps: of its model, else of a trial."""
    model = select(MODELS.c.uri).where(MODELS.c.study_id == STUDIES.c.id).scalar_subquery()
    trials = select(TRIALS.c.artifact_uri).where(
        TRIALS.c.study_id == STUDIES.c.id, TRIALS.c.artifact_uri.is_not(None)
    )
    return func.coalesce(model, trials.limit(1).scalar_subquery())


def _trial_row(connection: Connection, study: Row[Any], number: int) -> Row[Any]:
    query = select(TRIALS).where(TRIALS.c.study_id == study.id, TRIALS.c.number == number)
    row = connection.execute(query).first()
    if row is None:
        raise UnknownNameError(
            f'Study "{study.name}" has no trial {number}.', hint=f"`tlsearch trials {study.name}` lists them."
        )
    return row


def _named(**filters: str | None) -> list[ColumnElement[bool]]:
    return [TRIALS.c[column] == value for column, value in filters.items() if value is not None]


def _records(connection: Connection, study: str, query: Select[Any]) -> list[TrialRecord]:
    folder = home(connection)
    return [trial_record(study, row, home=folder) for row in connection.execute(query)]


def _counts(connection: Connection, study_ids: Sequence[int] | None) -> dict[int, Counted]:
    columns = (TRIALS.c.study_id, TRIALS.c.state, TRIALS.c.role)
    query = select(*columns, func.count()).group_by(*columns)
    if study_ids is not None:
        query = query.where(TRIALS.c.study_id.in_(study_ids))
    counted: dict[int, Counted] = {}
    for study_id, state, role, number in connection.execute(query):
        counted.setdefault(study_id, Counted()).add(TrialState(state), TrialRole(role), number)
    return counted
