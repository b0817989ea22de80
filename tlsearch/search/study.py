"""A study from its specification to a verified model: check, search, confirm, promote; or go on with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from tlsearch import artifacts as stores
from tlsearch.contracts import Strategy
from tlsearch.contracts.combination import members_of
from tlsearch.database.store import Lease, Store
from tlsearch.errors import DatabaseError, SearchError, StudyConflictError, WorkError
from tlsearch.files import cache_folder
from tlsearch.records import ModelRecord, Point, StudyRecord, StudyState, TrialRecord, TrialRole, TrialState
from tlsearch.search import finish, first_heads, hold, ray_cluster, ray_tune
from tlsearch.search.budget import Ledger
from tlsearch.search.combine import Combining
from tlsearch.search.crew import Crew, gather
from tlsearch.search.driver import Driver
from tlsearch.search.entry import begun_with, enter, refuse_conflicts
from tlsearch.search.hold import Interruption
from tlsearch.search.loggers import Journal, open_journal
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.search.relay import Relay
from tlsearch.search.sampler import Sampler
from tlsearch.search.setup import Prepared, assign, prepare
from tlsearch.search.steer import inherited
from tlsearch.search.turns import Fixed, PointSource, Searching, is_heads
from tlsearch.spec import StudySpec


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a run came to. ``interrupted`` is why it ended early, or empty; ``signal`` the one that did it."""

    study: StudyRecord
    model: ModelRecord | None
    best: TrialRecord | None
    interrupted: str
    signal: int = 0


def run(
    spec: StudySpec,
    *,
    database: str,
    artifacts: str | Path,
    observe: Observer = silent,
    address: str | None = None,
    again: bool = False,
) -> StudyResult:
    """Run a study, or go on with it where it was left.

    Args:
        spec: the study.
        database: URL of the study database; made if it isn't there.
        artifacts: where checkpoints, weights and bundles go: a folder, or a URL such as s3://BUCKET/PREFIX.
        observe: told how it goes.
        address: of a Ray cluster; None starts Ray on this machine.
        again: this driver replaces one that died, so what was asked of that one is asked of this one.

    Raises:
        InputError: something is wrong with the study, found before anything was written.
        WorkError: the search has no result, or the study was lost to another driver or a failing database.
    """
    place = stores.normal(artifacts)
    known = refuse_conflicts(spec, database)
    stores.check(place)

    def checked(strategies: Mapping[str, Strategy]) -> None:
        # What remains to be done before the first trial takes seconds, and so does Ray.
        over = known is not None and known.state is StudyState.COMPLETE
        if address is None and not over and not first_heads.may_be_all(spec, strategies):
            ray_cluster.start_early()

    # Before Ray starts in a thread: MLflow's import beside it keeps Ray from coming up.
    journal = open_journal(spec, observe)
    try:
        threads = max(1, len(os.sched_getaffinity(0)))
        cache = cache_folder()
        prepared = prepare(
            spec,
            cache=cache,
            threads=threads,
            observe=observe,
            checked=checked,
            begun=begun_with(spec, database) if known is not None else None,
        )
        for warning in prepared.warnings:
            observe(Snapshot(phase="check", note=warning))
        return _run_prepared(
            prepared,
            database=database,
            artifacts=place,
            cache=cache,
            observe=observe,
            address=address,
            again=again,
            journal=journal,
        )
    finally:
        journal.close()
        ray_cluster.stop()


def _run_prepared(
    prepared: Prepared,
    *,
    database: str,
    artifacts: str,
    cache: Path,
    observe: Observer,
    address: str | None,
    again: bool,
    journal: Journal,
) -> StudyResult:
    spec = prepared.spec
    with Store.open(database, create=True) as store:
        record = enter(store, prepared)
        lease = store.acquire(
            spec.study,
            owner=hold.this_process(),
            seconds=hold.LEASE_SECONDS,
            stale=hold.surely_dead,
            keep_request=again,
        )
        interruption = Interruption()
        state, reason = StudyState.FAILED, "the driver failed"
        with hold.signals(interruption):
            try:
                # The heartbeat must have ended before the lease is given back.
                with hold.heartbeat(store, lease, interruption):
                    job, priority = os.environ.get("TLSEARCH_JOB", ""), spec.resources.priority
                    store.update_study(lease, spec=spec.to_json(), job=job, priority=priority)
                    store.fix_items(lease, prepared.items)
                    if record.audit != prepared.audit:
                        store.update_study(lease, audit=prepared.audit)
                    model = _Run(
                        prepared=prepared,
                        store=store,
                        lease=lease,
                        record=record,
                        folder=stores.join(artifacts, f"{record.name}-{record.created:%Y%m%d%H%M%S%f}"),
                        cache=cache,
                        interruption=interruption,
                        observe=observe,
                        address=address,
                        journal=journal,
                    ).to_the_end()
                state, reason = (
                    (StudyState.INTERRUPTED, interruption.reason)
                    if interruption.reason
                    else (StudyState.COMPLETE, "")
                )
            except KeyboardInterrupt:
                state, reason = StudyState.INTERRUPTED, "interrupted twice"
                raise
            except BaseException as error:
                reason = f"{type(error).__name__}: {error}"[:500]
                raise
            finally:
                with contextlib.suppress(StudyConflictError, DatabaseError):
                    store.release(lease, state=state, reason=reason)
        if interruption.reason and not interruption.signal and interruption.request is None:
            raise SearchError(
                f"The search was stopped: {interruption.reason}", hint="The same command goes on with it."
            )
        best = store.best(spec.study)
        return StudyResult(
            study=store.study(spec.study),
            model=model,
            best=best[0] if best else None,
            interrupted=interruption.reason,
            signal=interruption.signal,
        )


@dataclass
class _Run:
    """One driver's run of a study that it holds, phase by phase."""

    prepared: Prepared
    store: Store
    lease: Lease
    record: StudyRecord
    folder: str
    cache: Path
    interruption: Interruption
    observe: Observer
    address: str | None
    journal: Journal
    spec: StudySpec = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.spec = self.prepared.spec

    def to_the_end(self) -> ModelRecord | None:
        """Search, confirm, promote; what earlier drivers did isn't done again.

        Returns:
            The study's model; None where it was interrupted before there was one.
        """
        before = self.store.trials(self.spec.study)
        searched = [t for t in before if t.role is TrialRole.SEARCH and not members_of(t.params)]
        self.ledger = Ledger(self.spec.budget, started=len(searched), spent=self.record.seconds)
        ended = [t for t in searched if t.state.final and t.state is not TrialState.CANCELLED]
        left_open = [trial for trial in searched if trial not in ended]
        model = self._model_that_stands()
        late = self.ledger.search_deadline <= time.time()
        over = late or (not left_open and self.ledger.trials_left == 0)
        if model is not None and over:
            return model
        finish.sweep(self.folder, before)
        try:
            self._drive(self._phases(ended, left_open, over=over))
        finally:
            ray_cluster.stop()
        if self._stopping():
            return self.store.model(self.spec.study)
        finalists = self._finalists()
        combined = self._combine(finalists)
        if self._stopping():
            return self.store.model(self.spec.study)
        if model is not None and self.store.trials(self.spec.study) == before:
            return model  # nothing was left to try: what was found before stands, its test set stays closed
        return self._promote(finalists, combined)

    def _stopping(self) -> str:
        return self.interruption.reason

    def _model_that_stands(self) -> ModelRecord | None:
        model = self.store.model(self.spec.study)
        if model is not None and not finish.intact(model):
            note = f"{model.uri} isn't what was written: it is made anew"
            self.observe(Snapshot(phase="check", note=note))
            return None
        return model

    def _phases(
        self, ended: list[TrialRecord], left_open: list[TrialRecord], *, over: bool
    ) -> Iterator[Driver]:
        """The search, unless it is ``over``; when all of it is recorded, the confirmation of its best."""
        if not over:
            source = self._search(ended, left_open)
            yield self._driver(
                source,
                phase="search",
                total=self.spec.budget.trials,
                deadline=self.ledger.search_deadline,
                finished=ended,
                prune=self.spec.search.pruner == "asha",
            )
            if source.exhausted:
                self.observe(Snapshot(phase="search", note="the space is exhausted: every point was tried"))
        points = self._confirmations(self._finalists())
        if points and time.time() < self.ledger.deadline:
            yield self._driver(
                Fixed(points, heads=is_heads(self.prepared.strategies), at_once=self._heads_at_once()),
                phase="confirm the best",
                total=len(points),
                deadline=self.ledger.deadline,
                finished=[],
                prune=False,
            )

    def _search(self, ended: list[TrialRecord], left_open: list[TrialRecord]) -> Searching:
        elders = inherited(self.store, self.record)
        sampler = Sampler(
            self.prepared.space,
            kind=self.spec.search.sampler,
            minimize=self.spec.objective.minimize,
            # A fork begins where its elders are: it is to draw other points than they did.
            seed=self.spec.seed + len(elders),
        )
        sampler.rebuild([*ended, *left_open], elders=elders, curves=self.store.curves(self.spec.study))
        return Searching(
            sampler,
            self.ledger,
            left_open=[finish.again(trial) for trial in left_open],
            next_number=self.store.next_number(self.spec.study),
            seed=self.spec.seed,
            heads=is_heads(self.prepared.strategies),
            at_once=self._heads_at_once(),
        )

    def _finalists(self) -> list[TrialRecord]:
        best = self.store.best(self.spec.study, limit=None)
        finalists = [t for t in best if not members_of(t.params)][: self.spec.search.finalists]
        if not finalists:
            raise SearchError(
                "No trial completed.",
                hint=f"`tlsearch trials {self.spec.study}` says why each ended as it did.",
            )
        return finalists

    def _confirmations(self, finalists: list[TrialRecord]) -> list[Point]:
        return finish.confirmations(
            finalists,
            self.store.trials(self.spec.study, role=TrialRole.CONFIRM),
            seeds=self.spec.search.confirm_seeds if len(finalists) > 1 else 0,
            first_number=self.store.next_number(self.spec.study),
        )

    def _combine(self, finalists: list[TrialRecord]) -> list[TrialRecord]:
        return Combining(
            prepared=self.prepared,
            store=self.store,
            lease=self.lease,
            folder=self.folder,
            cache=self.cache,
            deadline=self.ledger.deadline,
            observe=self.observe,
            stopping=self._stopping,
        ).run(finalists)

    def _promote(self, finalists: list[TrialRecord], combined: list[TrialRecord]) -> ModelRecord | None:
        self.observe(Snapshot(phase="verify the winner"))
        confirmed = self.store.trials(self.spec.study, role=TrialRole.CONFIRM)
        model, refused = finish.promote(
            finish.ranked(finalists, confirmed, minimize=self.spec.objective.minimize, combined=combined),
            store=self.store,
            lease=self.lease,
            prepared=self.prepared,
            folder=self.folder,
            provenance={"study": self.spec.study, "created": self.record.created.isoformat()},
            stopping=self._stopping,
        )
        for sentence in refused:
            self.observe(Snapshot(phase="verify the winner", note=sentence))
        if model is None:
            return self.store.model(self.spec.study)
        self._drop_confirmations(confirmed)
        finish.sweep(self.folder, self.store.trials(self.spec.study), model)
        return model

    def _drop_confirmations(self, confirmed: list[TrialRecord]) -> None:
        """Weights of repeated runs have told what they had to tell."""
        kept = [trial for trial in confirmed if trial.artifact is not None]
        self.store.forget_artifacts(self.lease, [trial.number for trial in kept])
        for trial in kept:
            if trial.artifact is not None:
                stores.delete(trial.artifact.uri)

    def _heads_at_once(self) -> int:
        """Heads in one turn: many, but no branch of heads gets more than a third of the trials unasked."""
        if self.spec.search.heads_per_trial is not None:
            return self.spec.search.heads_per_trial
        branches = sum(branch.heads for branch in self.prepared.space.branches)
        return max(1, min(32, self.spec.budget.trials // (3 * max(1, branches))))

    def _driver(
        self,
        source: PointSource,
        *,
        phase: str,
        total: int | None,
        deadline: float,
        finished: list[TrialRecord],
        prune: bool,
    ) -> Driver:
        return Driver(
            store=self.store,
            lease=self.lease,
            spec=self.spec,
            source=source,
            ledger=self.ledger,
            deadline=deadline,
            slots=lambda: self._crew.share(),
            groups={info.name: len(info.groups) for info in self.prepared.backbones},
            heads=is_heads(self.prepared.strategies),
            phase=phase,
            total=total,
            finished=finished,
            observe=self.observe,
            stopping=self._stopping,
            prune=prune,
            journal=self.journal,
            combines=bool(self.prepared.combinations),
            place=self.folder,
        )

    @cached_property
    def _crew(self) -> Crew:
        """Ray is started, or joined, when the first trial is due."""
        return gather(
            self.prepared,
            store=self.store,
            lease=self.lease,
            address=self.address,
            observe=self.observe,
        )

    def _drive(self, drivers: Iterator[Driver]) -> None:
        """Have workers run one driver's points after another's, until there are no more, or time is up."""
        relay = Relay(drivers)
        assignment = assign(
            self.prepared,
            cache=self.cache,
            artifacts=self.folder,
            threads=self.spec.resources.cpus_per_trial,
            cuda=False,
        )
        try:
            if self.address is None:
                first_heads.take(relay, prepared=self.prepared, assignment=assignment)
            while not relay.over and not self._stopping():
                ray_tune.run(
                    relay,
                    assignment=replace(assignment, cuda=self._crew.gpus > 0, gpu_share=self._crew.gpus),
                    cpus_per_trial=self.spec.resources.cpus_per_trial,
                    gpus_per_trial=self._crew.gpus,
                    slots=self._crew.slots,
                    epochs=self.spec.budget.epochs,
                    minimize=self.spec.objective.minimize,
                    on_cpus=self._crew.on_cpus,
                    alone=self.address is None,
                )
                if not self._stopping():
                    relay.leave()  # its workers were ended, or it is over
        except WorkError:
            if not self._stopping():  # whoever stops us may have stopped Ray's processes as well
                raise
        finally:
            relay.close()
