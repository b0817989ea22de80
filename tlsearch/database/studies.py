"""Studies, their data sets and their models: creating, changing, deleting."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as delete_from

from tlsearch.database.engine import Database, database_time, upsert
from tlsearch.database.leases import locked, refuse_held
from tlsearch.database.places import home
from tlsearch.database.queries import study, study_row
from tlsearch.database.rows import (
    dataset_record,
    dataset_values,
    finite_json,
    model_record,
    model_values,
    now,
    plugin_values,
)
from tlsearch.database.tables import DATASETS, ITEMS, MODELS, STUDIES
from tlsearch.errors import StudyConflictError, UnknownNameError
from tlsearch.records import (
    DatasetRecord,
    ModelRecord,
    PluginVersion,
    StudyItems,
    StudyRecord,
    StudyState,
)


def new(
    *,
    name: str,
    spec: Mapping[str, Any],
    metric: str,
    direction: str,
    plugins: Sequence[PluginVersion],
    versions: Mapping[str, str],
    owner: str,
    parent: str | None,
    priority: int,
) -> dict[str, Any]:
    """The row of a study that no driver has acquired yet, all but its data set."""
    if direction not in ("maximize", "minimize"):
        raise ValueError(f'direction is "maximize" or "minimize", not "{direction}"')
    time = now()
    return {
        "name": name,
        "metric": metric,
        "direction": direction,
        "state": StudyState.INTERRUPTED.value,
        "reason": "not started yet",
        "seconds": 0.0,
        "lease_token": 0,
        "last_write": uuid4().hex,
        "created": time,
        "updated": time,
        "owner": owner,
        "parent": parent,
        "job": "",
        "cluster": "",
        "audit": {},
        "test_openings": 0,
        **changes(spec=spec, plugins=plugins, versions=versions, priority=priority),
    }


def create(connection: Connection, *, row: Mapping[str, Any], dataset: DatasetRecord) -> StudyRecord:
    """Insert a study and, if its fingerprint is new, its data set."""
    known = upsert(connection, DATASETS).values(**dataset_values(dataset))
    connection.execute(known.on_conflict_do_nothing(index_elements=[DATASETS.c.fingerprint]))
    dataset_id = select(DATASETS.c.id).where(DATASETS.c.fingerprint == dataset.fingerprint)
    insert = upsert(connection, STUDIES).values(dataset_id=dataset_id.scalar_subquery(), **row)
    connection.execute(insert.on_conflict_do_nothing(index_elements=[STUDIES.c.name]))
    # Somebody else's row has another stamp; after a commit that went unheard it is ours.
    if locked(connection, row["name"]).last_write != row["last_write"]:
        raise StudyConflictError(
            f'A study "{row["name"]}" exists already.',
            hint="Give yours another name, or go on with that one.",
        )
    return study(connection, row["name"])


def changes(
    *,
    spec: Mapping[str, Any] | None,
    plugins: Sequence[PluginVersion] | None,
    versions: Mapping[str, str] | None,
    audit: Mapping[str, Any] | None = None,
    priority: int | None = None,
    job: str | None = None,
    cluster: str | None = None,
) -> dict[str, Any]:
    """The columns for what is given."""
    values: dict[str, Any] = {}
    if spec is not None:
        values["spec"] = finite_json(spec)
    if plugins is not None:
        values["plugins"] = plugin_values(plugins)
    if versions is not None:
        values["versions"] = dict(versions)
    if audit is not None:
        values["audit"] = finite_json(audit)
    given = {"priority": priority, "job": job, "cluster": cluster}
    return {**values, **{name: value for name, value in given.items() if value is not None}}


def change(connection: Connection, study_id: int, values: Mapping[str, Any]) -> None:
    """Replace some columns of a study."""
    if values:
        connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(**values))


def delete(database: Database, name: str, *, stale: Callable[[str], bool] | None) -> None:
    """Delete a study and all that hangs on it, unless a driver runs it."""
    tried: list[int] = []

    def body(connection: Connection) -> None:
        if tried and not connection.execute(select(STUDIES.c.id).where(STUDIES.c.id == tried[0])).first():
            return  # the first try did commit
        row = locked(connection, name)
        refuse_held(row, time=database_time(connection), stale=stale)
        connection.execute(delete_from(STUDIES).where(STUDIES.c.id == row.id))
        tried.append(row.id)

    database.write(body)


def dataset(connection: Connection, fingerprint: str) -> DatasetRecord:
    """The data set of that fingerprint; UnknownNameError if no study used it."""
    row = connection.execute(select(DATASETS).where(DATASETS.c.fingerprint == fingerprint)).first()
    if row is None:
        raise UnknownNameError(f'No data set with the fingerprint "{fingerprint}" in the database.')
    return dataset_record(row)


def data_of(connection: Connection, study: str) -> DatasetRecord:
    """The data set of a study, with the counts of its own splits: others may cut the same data otherwise."""
    row = study_row(connection, study)
    found = dataset_record(connection.execute(select(DATASETS).where(DATASETS.c.id == row.dataset_id)).one())
    fixed = items(connection, study)
    if fixed is None:
        return found
    return replace(found, counts={name: len(fixed.of(name)) for name in found.counts})


def pin_model(connection: Connection, study_id: int, model: ModelRecord) -> None:
    """Store the study's one model, in place of any before."""
    values = model_values(model)
    statement = upsert(connection, MODELS).values(study_id=study_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[MODELS.c.study_id], set_=values))


def count_opening(connection: Connection, study_id: int, by: int) -> int:
    """Add to a study's openings of its test set; answers the sum."""
    counted = STUDIES.c.test_openings + by
    connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(test_openings=counted))
    query = select(STUDIES.c.test_openings).where(STUDIES.c.id == study_id)
    return int(connection.execute(query).scalar_one())


def fix_items(connection: Connection, study_id: int, found: StudyItems) -> None:
    """Store a study's items, unless it has some."""
    content = zlib.compress(json.dumps(found.to_json()).encode())
    statement = upsert(connection, ITEMS).values(study_id=study_id, content=content)
    connection.execute(statement.on_conflict_do_nothing(index_elements=[ITEMS.c.study_id]))


def items(connection: Connection, study: str) -> StudyItems | None:
    """A study's items, or None where an older version prepared it, or nobody yet."""
    found = study_row(connection, study)
    row = connection.execute(select(ITEMS.c.content).where(ITEMS.c.study_id == found.id)).first()
    return None if row is None else StudyItems.from_json(json.loads(zlib.decompress(row.content)))


def model(connection: Connection, study: str) -> ModelRecord | None:
    """The study's model, or None while it has none."""
    found = study_row(connection, study)
    row = connection.execute(select(MODELS).where(MODELS.c.study_id == found.id)).first()
    return None if row is None else model_record(found.name, row, home=home(connection))
