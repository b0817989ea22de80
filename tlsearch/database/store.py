"""The study database as the rest of tlsearch sees it: records in, records out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Row

from tlsearch.database import leases, queries, sharing, studies, writes
from tlsearch.database.engine import PATIENCE, Database
from tlsearch.database.leases import Lease
from tlsearch.database.schema import check, connect, exists, schema_version, upgrade
from tlsearch.database.sharing import Sharer
from tlsearch.errors import DatabaseError
from tlsearch.records import (
    DatasetRecord,
    EpochRecord,
    EpochResult,
    ModelRecord,
    Outcome,
    PluginVersion,
    Point,
    StudyItems,
    StudyRecord,
    StudyRequest,
    StudyState,
    TrialRecord,
    TrialRole,
    TrialState,
)

__all__ = ["Lease", "Sharer", "Store", "exists", "schema_version", "upgrade"]


class Store:
    """A study database. Many threads may share one store; nothing of SQLAlchemy leaves it.

    Reading needs a study's name, writing its ``Lease``. A write that another driver's lease fences off
    is a StudyConflictError; a database that fails, a DatabaseError without any password in it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, create: bool = False, patience: float = PATIENCE) -> Store:
        """Open the database at ``sqlite:///PATH`` or ``postgresql://...``.

        Without ``create`` it must exist with the schema of this version, and nothing is written.
        ``patience`` is how many seconds to wait for another process's lock, or for a server that went
        away after it was reached once.
        """
        return cls(connect(url, create=create, patience=patience))

    def close(self) -> None:
        """Let go of all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Studies

    def create_study(
        self,
        *,
        name: str,
        spec: Mapping[str, Any],
        metric: str,
        direction: str,
        dataset: DatasetRecord,
        plugins: Sequence[PluginVersion],
        versions: Mapping[str, str],
        owner: str = "",
        parent: str | None = None,
        priority: int = 1,
    ) -> StudyRecord:
        """Store a new study, INTERRUPTED until a driver acquires it; StudyConflictError if the name is taken.

        A data set of the same fingerprint is stored once and keeps its first description.
        """
        row = studies.new(
            name=name,
            spec=spec,
            metric=metric,
            direction=direction,
            plugins=plugins,
            versions=versions,
            owner=owner,
            parent=parent,
            priority=priority,
        )
        return self._database.write(partial(studies.create, row=row, dataset=dataset))

    def study(self, name: str) -> StudyRecord:
        """The study of that name; UnknownNameError if there is none."""

        return self._database.read(partial(queries.study, name=name))

    def find_study(self, name: str) -> StudyRecord | None:
        """The study of that name, or None."""
        return next(iter(self._database.read(partial(queries.studies, name=name))), None)

    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        return self._database.read(queries.studies)

    def dataset(self, fingerprint: str) -> DatasetRecord:
        """The data set of that fingerprint; UnknownNameError if no study used it."""
        return self._database.read(partial(studies.dataset, fingerprint=fingerprint))

    def fix_items(self, lease: Lease, items: StudyItems) -> None:
        """Store the items of a study's data with their splits; those that it has already stay."""
        leases.fenced(
            self._database, lease, lambda connection, row: studies.fix_items(connection, row.id, items)
        )

    def data_of(self, study: str) -> DatasetRecord:
        """The data set of a study, with the counts of the study's own splits."""
        return self._database.read(partial(studies.data_of, study=study))

    def items(self, study: str) -> StudyItems | None:
        """The items of a study's data with their splits; None where an older version prepared it."""
        return self._database.read(partial(studies.items, study=study))

    def study_ids(self) -> dict[str, int]:
        """A number for each study's name, oldest first, that stays its own while the study is there."""
        return self._database.read(queries.study_ids)

    def delete_study(self, name: str, *, stale: Callable[[str], bool] | None = None) -> None:
        """Delete a study's rows, no files; StudyConflictError while a driver runs it, see ``acquire``."""
        studies.delete(self._database, name, stale=stale)

    def update_study(
        self,
        lease: Lease,
        *,
        spec: Mapping[str, Any] | None = None,
        plugins: Sequence[PluginVersion] | None = None,
        versions: Mapping[str, str] | None = None,
        audit: Mapping[str, Any] | None = None,
        priority: int | None = None,
        job: str | None = None,
        cluster: str | None = None,
    ) -> None:
        """Replace what is given."""
        values = studies.changes(
            spec=spec,
            plugins=plugins,
            versions=versions,
            audit=audit,
            priority=priority,
            job=job,
            cluster=cluster,
        )
        leases.fenced(
            self._database, lease, lambda connection, row: studies.change(connection, row.id, values)
        )

    # Leases

    def acquire(
        self,
        study: str,
        *,
        owner: str,
        seconds: float = 30,
        stale: Callable[[str], bool] | None = None,
        keep_request: bool = False,
    ) -> Lease:
        """Take the right to write to a study, and set it RUNNING.

        A lease that another owner holds is a StudyConflictError, unless it ran out or ``stale(owner)``
        says that its owner is surely dead; so is a study that was cancelled. The same owner gets a new
        lease and its old one is void. ``keep_request`` is for a driver that replaces one that died: a
        pause that was asked of that one holds for it, too.
        """
        return leases.acquire(
            self._database, study, owner=owner, seconds=seconds, stale=stale, keep_request=keep_request
        )

    def refuse_held(self, study: str, *, stale: Callable[[str], bool] | None = None) -> None:
        """StudyConflictError where ``acquire`` would refuse, now; nothing is written."""
        self._database.read(partial(leases.refuse_if_held, study=study, stale=stale))

    def renew(
        self, lease: Lease, *, seconds: float = 30, elapsed: float = 0.0
    ) -> tuple[StudyRequest, str] | None:
        """Hold the lease for ``seconds`` from now, and add ``elapsed`` to the study's search time.

        Answers what somebody asks of the driver, and who; None as long as nobody does.
        """
        return leases.renew(self._database, lease, seconds=seconds, elapsed=elapsed)

    def release(self, lease: Lease, *, state: StudyState, reason: str = "") -> None:
        """Give the lease back; the study stands as ``state`` says."""
        leases.release(self._database, lease, state=state, reason=reason)

    # People who share the database

    def ask(
        self,
        study: str,
        action: StudyRequest,
        *,
        by: str,
        stale: Callable[[str], bool] | None = None,
    ) -> bool:
        """Ask a study to pause or to end for good; answers whether a driver has yet to do it.

        StudyConflictError where there is nothing to pause or to cancel. See ``acquire`` for ``stale``.
        """
        return sharing.ask(self._database, study, action, by=by, stale=stale)

    def sharers(self, cluster: str) -> list[Sharer]:
        """The studies that are being run on a cluster, by name."""
        return self._database.read(partial(sharing.sharers, cluster=cluster))

    # Trials

    def start_trials(
        self, lease: Lease, points: Sequence[Point], *, node: str = "", keep_epochs: bool = False
    ) -> None:
        """Store the points as RUNNING trials.

        A point with a later attempt than the stored one takes over its row: the outcome is cleared,
        and the epochs too unless ``keep_epochs`` (for a trial that goes on from a checkpoint). A point
        that is stored already changes nothing. StudyConflictError where the number belongs to another
        point, or to a trial that is COMPLETE or PRUNED.
        """

        def body(connection: Connection, row: Row[Any]) -> None:
            writes.start_trials(connection, row.id, points, node=node, keep_epochs=keep_epochs)

        leases.fenced(self._database, lease, body)

    def record(self, lease: Lease, results: Sequence[EpochResult]) -> list[EpochResult]:
        """Store epochs and outcomes in one transaction; answers those that came too late.

        Too late is a result of an attempt that isn't the trial's current one, or of a trial that has
        ended or was never started. None of it is stored.
        """
        return leases.fenced(
            self._database, lease, lambda connection, row: writes.record(connection, row.id, results)
        )

    def end_trials(
        self,
        lease: Lease,
        numbers: Iterable[int],
        state: TrialState,
        reason: str,
        *,
        outcomes: Mapping[int, Outcome] | None = None,
    ) -> list[int]:
        """End trials from outside; answers the numbers of those that were running.

        A trial in ``outcomes`` ends as its outcome says, the others by ``state`` and ``reason`` alone.
        """
        wanted = list(numbers)

        def body(connection: Connection, row: Row[Any]) -> list[int]:
            return writes.end_trials(
                connection, row.id, wanted, state=state, reason=reason, outcomes=outcomes or {}
            )

        return leases.fenced(self._database, lease, body)

    def forget_artifacts(self, lease: Lease, numbers: Iterable[int]) -> None:
        """Note that the files of these trials were deleted."""
        wanted = list(numbers)
        leases.fenced(
            self._database, lease, lambda connection, row: writes.forget_artifacts(connection, row.id, wanted)
        )

    def trials(
        self,
        study: str,
        *,
        states: Collection[TrialState] | None = None,
        strategy: str | None = None,
        backbone: str | None = None,
        role: TrialRole | None = None,
        sort: str = "number",
        descending: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[TrialRecord]:
        """The trials that pass all filters, sorted; those without a value to sort by come last."""
        return self._database.read(
            partial(
                queries.trials,
                study=study,
                states=states,
                strategy=strategy,
                backbone=backbone,
                role=role,
                sort=sort,
                descending=descending,
                limit=limit,
                offset=offset,
            )
        )

    def running(self, study: str) -> list[TrialRecord]:
        """The trials that haven't ended."""
        return self.trials(study, states=[TrialState.RUNNING])

    def best(
        self,
        study: str,
        *,
        strategy: str | None = None,
        backbone: str | None = None,
        max_parameters: int | None = None,
        limit: int | None = 1,
        role: TrialRole = TrialRole.SEARCH,
    ) -> list[TrialRecord]:
        """The COMPLETE trials with the best finite values by the study's metric and direction.

        Of equal values the smaller model comes first, then the lower number.
        """
        return self._database.read(
            partial(
                queries.best,
                study=study,
                strategy=strategy,
                backbone=backbone,
                max_parameters=max_parameters,
                limit=limit,
                role=role,
            )
        )

    def trial(self, study: str, number: int) -> TrialRecord:
        """One trial; UnknownNameError if there is none of that number."""
        return self._database.read(partial(queries.trial, study=study, number=number))

    def epochs(self, study: str, number: int) -> list[EpochRecord]:
        """The learning curve of a trial; where a later attempt took over, the earlier one's ends."""
        return self._database.read(partial(queries.epochs, study=study, number=number))

    def curves(self, study: str) -> dict[int, list[EpochRecord]]:
        """The learning curves of all trials that have one, by trial number."""
        return self._database.read(partial(queries.curves, study=study))

    def next_number(self, study: str) -> int:
        """The first number that no trial has had; numbers count from 0."""
        return self._database.read(partial(queries.next_number, study=study))

    def counts(self, study: str) -> Mapping[TrialState, int]:
        """How many trials are in each state, zeros included."""
        return self._database.read(partial(queries.counts, study=study))

    # The model

    def pin_model(self, lease: Lease, model: ModelRecord) -> None:
        """Make this the study's model, in place of any before."""
        if model.study != lease.study:
            raise ValueError(f'a model of study "{model.study}" with a lease of "{lease.study}"')

        def body(connection: Connection, row: Row[Any]) -> None:
            queries.trial(connection, lease.study, model.trial)  # the error for a trial that isn't there
            studies.pin_model(connection, row.id, model)

        leases.fenced(self._database, lease, body)

    def count_opening(self, lease: Lease, *, by: int = 1) -> int:
        """Note that the test set is opened now; answers how often it has been, with this time.

        Noted before it is done, so that a driver that dies in the midst of it has counted it. ``by=-1`` takes
        it back where it stayed closed after all.
        """
        return leases.fenced(
            self._database, lease, lambda connection, row: studies.count_opening(connection, row.id, by)
        )

    def model(self, study: str) -> ModelRecord | None:
        """The study's model, or None while it has none."""
        return self._database.read(partial(studies.model, study=study))

    # Care

    def check(self) -> list[str]:
        """What the database finds wrong with itself; an empty list is good news."""

        try:
            return self._database.read(check)
        except DatabaseError as error:
            return [error.message]
