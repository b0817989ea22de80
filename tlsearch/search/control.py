"""What people do with studies beyond running them: go on, extend, pause, cancel, fork.

All of it works from any machine that reaches the study database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tlsearch.contracts.combination import members_of
from tlsearch.database.store import Store
from tlsearch.errors import InputError, StudyConflictError
from tlsearch.records import StudyRecord, StudyRequest, TrialRecord, TrialRole, TrialState
from tlsearch.search.lease_heartbeat import surely_dead, who, who_and_where
from tlsearch.search.registration import comparable, of_same_data
from tlsearch.spec import StudySpec, parse

LEARNED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)
"""Trials that tell something to a study that is forked."""


def stored(database: str, study: str) -> StudySpec:
    """A study as the database holds it.

    Raises:
        UnknownNameError: there is none of that name.
        StudyConflictError: it was cancelled, or a driver runs it.
    """
    with Store.open(database) as store:
        record = store.study(study)
        store.refuse_held(study, stale=surely_dead)
    return parse(record.spec, name=f"study {study} of the database")


def trials_in_all(text: str, known: StudySpec, database: str) -> int:
    """A number of trials as users give it: ``60`` in all, or ``+50`` to what the study had.

    Raises:
        InputError: it is neither.
    """
    number = _whole(text)
    if not text.startswith("+"):
        return number
    return number + _had(known, database)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f'--trials takes a number such as 60 or +50, not "{text}".') from None


def _had(known: StudySpec, database: str) -> int:
    record = _record(known.study, database)
    return known.budget.trials if record is None else int(record.spec["budget"]["trials"])


def _record(study: str, database: str) -> StudyRecord | None:
    """The record of a study; None where there is none, or no database."""
    from tlsearch.database.store import schema_version
    from tlsearch.errors import DatabaseError

    try:
        if schema_version(database) is None:
            return None
    except DatabaseError:  # there is none yet
        return None
    with Store.open(database) as store:
        return store.find_study(study)


def minutes_in_all(text: str, known: StudySpec, database: str) -> float:
    """A number of minutes as users give it: ``30`` in all, or ``+4`` to what the study had or has used.

    Raises:
        InputError: it is neither.
    """
    number = _finite(text)
    if not text.startswith("+"):
        return number
    record = _record(known.study, database)
    if record is None:
        return number + (known.budget.minutes or 0.0)
    return number + max(record.spec["budget"].get("minutes") or 0.0, record.seconds / 60)


def budget_of_new(*, trials: str | None, minutes: str | None) -> dict[str, Any]:
    """--trials and --minutes of a study that isn't there yet, as dotted keys and values.

    Those that add to what its file will say are left out.

    Raises:
        InputError: one is no number.
    """
    given = {"budget.trials": (trials, _whole), "budget.minutes": (minutes, _finite)}
    read = {key: (text, number(text)) for key, (text, number) in given.items() if text is not None}
    return {key: value for key, (text, value) in read.items() if not text.startswith("+")}


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f'--minutes takes a finite number such as 30 or +4, not "{text}".')
    return number


def pause(database: str, study: str) -> bool:
    """Ask the driver of a study to stop for now; trials in flight end as cancelled and run again later."""
    with Store.open(database) as store:
        return store.ask(study, StudyRequest.PAUSE, by=who_and_where(), stale=surely_dead)


def cancel(database: str, study: str) -> bool:
    """End a study for good; answers whether a driver has yet to hear of it."""
    with Store.open(database) as store:
        return store.ask(study, StudyRequest.CANCEL, by=who_and_where(), stale=surely_dead)


def fork(database: str, study: str, new: str, *, overrides: Mapping[str, Any]) -> StudyRecord:
    """Make a new study that begins with what another one learned.

    Its sampler knows the finished trials of its parent and proposes none of their points again. Data and
    objective stay, since values of others can't be compared.

    Raises:
        StudyConflictError: the name is taken, or the change isn't one that keeps trials comparable.
        SpecError: the changed study isn't valid.
    """
    with Store.open(database) as store:
        parent = store.study(study)
        before = parse(parent.spec, name=f"study {study}")
        after = parse(parent.spec, overrides={**overrides, "study": new}, name=f"fork of {study}")
        for part in ("data", "objective"):
            if comparable({part: before.to_json()[part]}) != comparable({part: after.to_json()[part]}):
                raise StudyConflictError(
                    f"A fork keeps the {part} of its parent: other values couldn't be compared.",
                    hint="Begin a study of its own with `tlsearch run`.",
                )
        return store.create_study(
            name=new,
            spec=after.to_json(),
            metric=parent.metric,
            direction=parent.direction,
            dataset=store.dataset(parent.fingerprint),
            plugins=parent.plugins,
            versions=parent.versions,
            owner=who(),
            parent=study,
            priority=after.resources.priority,
        )


def inherited(store: Store, record: StudyRecord) -> list[TrialRecord]:
    """What the studies that this one was forked from have learned, the eldest first."""
    found: list[TrialRecord] = []
    for elder in list(of_same_data(store, record.name))[1:]:
        learned = store.trials(elder.name, role=TrialRole.SEARCH, states=LEARNED)
        found = [*(trial for trial in learned if not members_of(trial.params)), *found]
    return found
