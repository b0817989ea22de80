"""Entering a study into the database, or finding it there; what may have changed since, and what not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from tlsearch.database.store import Store, exists
from tlsearch.errors import StudyConflictError
from tlsearch.records import StudyItems, StudyRecord
from tlsearch.search.lease_heartbeat import surely_dead, who
from tlsearch.spec import StudySpec

if TYPE_CHECKING:  # it imports torch, and those who only ask for conflicts needn't wait for that
    from tlsearch.search.setup import Prepared
    from tlsearch.training.earlier import Extended

FREE_TO_CHANGE = (
    "budget.trials",
    "budget.minutes",
    "resources",
    "search",
    "abstain",
    "loggers",
    "data.path",
    "data.root",
    "data.max_overlap",
)
"""Parts of a study that may differ when it is run again; anything else would make trials incomparable.

Where the data lies is free, since what it holds is compared by its fingerprint.
"""


def refuse_conflicts(spec: StudySpec, database: str) -> StudyRecord | None:
    """Look at the database, if there is one, and at a study of that name in it, before any work is done.

    Returns:
        The study of that name, if there is one.
    """
    if not exists(database):
        return None
    with Store.open(database) as store:
        known = store.find_study(spec.study)
        if known is not None:
            _refuse_changed(known, spec)
            store.refuse_held(spec.study, stale=surely_dead)
        return known


def lineage(store: Store, study: str) -> Iterator[StudyRecord]:
    """A study, the one that it was forked from or extends, and so on."""
    record = store.find_study(study)
    while record is not None:
        yield record
        elder = store.find_study(record.parent) if record.parent is not None else None
        # A name can be given again after a study is deleted.
        record = elder if elder is not None and elder.created < record.created else None


def of_same_data(store: Store, study: str) -> Iterator[StudyRecord]:
    """A study and those that it was forked from, whose scores can be compared with its own."""
    records = lineage(store, study)
    first = next(records, None)
    if first is not None:
        yield first
        yield from takewhile(lambda elder: elder.fingerprint == first.fingerprint, records)


def begun_with(spec: StudySpec, database: str) -> StudyItems | None:
    """The items of a study that was begun, or of the one that it was forked from, with their splits.

    None where an older version began it.
    """
    with Store.open(database) as store:
        return _items(store, spec.study)


def _items(store: Store, study: str) -> StudyItems | None:
    found = (store.items(record.name) for record in of_same_data(store, study))
    return next((items for items in found if items is not None), None)


def extended_by(study: str, database: str, *, extends: str | None = None) -> Extended | None:
    """The study whose data a study of the database extends; or that named one, which is to be extended now.

    Raises:
        StudyConflictError: an older version began the named one, without its items.
    """
    from tlsearch.training.earlier import Extended

    with Store.open(database) as store:
        eldest = list(of_same_data(store, study))[-1:]
        name = extends or (eldest[0].parent if eldest else None)
        elder = store.find_study(name) if name is not None else None
        items = _items(store, elder.name) if elder is not None else None
        if elder is not None and items is not None:
            names = store.dataset(elder.fingerprint).names
            return Extended(elder.name, elder.fingerprint, names, items)
    if extends is not None:
        raise StudyConflictError(
            f'Study "{extends}" was begun by an older version, which stored no items of it.',
            hint=f"`tlsearch study resume {extends} --trials +1`, with its data as it was, stores them.",
        )
    return None


def enter(store: Store, prepared: Prepared, *, parent: str | None = None) -> StudyRecord:
    """The study's record, made where there is none; ``parent`` is then the study that it extends.

    Raises:
        StudyConflictError: there is a study of that name that is another one.
    """
    spec = prepared.spec
    known = store.find_study(spec.study)
    if known is None:
        return store.create_study(
            name=spec.study,
            spec=spec.to_json(),
            metric=spec.objective.metric,
            direction=prepared.metric.direction,
            dataset=prepared.dataset,
            plugins=prepared.plugins,
            versions=prepared.versions,
            owner=who(),
            parent=parent,
            priority=spec.resources.priority,
        )
    _refuse_changed(known, spec)
    if known.fingerprint != prepared.dataset.fingerprint:
        raise StudyConflictError(
            f'The data of study "{spec.study}" has changed since it was begun.',
            hint="Give the study another name: scores on other data can't be compared.",
        )
    return known


def _refuse_changed(known: StudyRecord, spec: StudySpec) -> None:
    before, now = comparable(known.spec), comparable(spec.to_json())
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise StudyConflictError(
            f'A study "{spec.study}" exists and differs in: {", ".join(changed)}.',
            hint="Give the study another name. Only these may change: " + ", ".join(FREE_TO_CHANGE) + ".",
        )


def comparable(spec: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """A study as dotted keys and values, without what may change."""
    flat: dict[str, object] = {}
    for key, value in spec.items():
        path = f"{prefix}{key}"
        if path in FREE_TO_CHANGE:
            continue
        if isinstance(value, Mapping):
            flat.update(comparable(value, f"{path}."))
        else:
            flat[path] = value
    return flat
