"""A study from its specification to a verified model: check, search, confirm, promote; or go on with it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from tlsearch import artifacts as stores
from tlsearch.contracts import Strategy
from tlsearch.contracts.combination import members_of
from tlsearch.database.store import Lease, Store
from tlsearch.errors import DatabaseError, SearchError, StudyConflictError, WorkError
from tlsearch.files import cache_folder, temporary_folder
from tlsearch.models import abstention
from tlsearch.records import ModelRecord, Point, StudyRecord, StudyState, TrialRecord, TrialRole, TrialState
from tlsearch.search import finish, first_heads, lease_heartbeat, model_files, ray_cluster
from tlsearch.search.allocation import EXPLORATION
from tlsearch.search.backends.local import LocalBackend
from tlsearch.search.backends.trial_backend import TrialBackend
from tlsearch.search.budget import Budget, looking
from tlsearch.search.control import inherited
from tlsearch.search.driver import Driver
from tlsearch.search.ending import CONFIRM, REFIT, Ending
from tlsearch.search.finalists import again
from tlsearch.search.lease_heartbeat import Interruption
from tlsearch.search.loggers import TrialLoggers, open_journal
from tlsearch.search.phase_sequence import PhaseSequence
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.search.registration import begun_with, enter, refuse_conflicts
from tlsearch.search.result import StudyResult
from tlsearch.search.sampler import Sampler
from tlsearch.search.setup import Prepared, assign, prepare
from tlsearch.search.trial_queue import Fixed, PointSource, Searching, is_heads
from tlsearch.search.workers import allocate
from tlsearch.spec import BudgetSpec, StudySpec
from tlsearch.training.objective import settled
from tlsearch.training.trial import WorkerConfig


def run(
    spec: StudySpec,
    *,
    database: str,
    artifacts: str | Path,
    observe: Observer = silent,
    address: str | None = None,
    local: bool | None = None,
    again: bool = False,
    began: float | None = None,
) -> StudyResult:
    """Run a study, or go on with it where it was left.

    Args:
        spec: the study.
        database: URL of the study database; made if it isn't there.
        artifacts: where checkpoints, weights and bundles go: a folder, or a URL such as s3://BUCKET/PREFIX.
        observe: told how it goes.
        address: of a Ray cluster; None starts Ray on this machine.
        local: run trials in this process, without Ray; None where TLSEARCH_LOCAL says so.
        again: this driver replaces one that died, so what was asked of that one is asked of this one.
        began: when its minutes began, as `time.time` counts; now where it is None.

    Raises:
        InputError: something is wrong with the study, found before anything was written.
        WorkError: the search has no result, or the study was lost to another driver or a failing database.
    """
    began = time.time() if began is None else began
    here = os.environ.get("TLSEARCH_LOCAL", "") not in ("", "0") if local is None else local
    place = stores.normal(artifacts)
    spec = settled(spec)
    known = refuse_conflicts(spec, database)
    stores.check(place)

    def checked(strategies: Mapping[str, Strategy]) -> None:
        # What remains to be done before the first trial takes seconds, and so does Ray.
        over = known is not None and known.state is StudyState.COMPLETE
        if address is None and not here and not over and not first_heads.may_be_all(spec, strategies):
            ray_cluster.start_early()

    # Before Ray starts in a thread: MLflow's import beside it keeps Ray from coming up.
    journal = open_journal(spec, observe)
    try:
        threads = max(1, len(os.sched_getaffinity(0)))
        cache = cache_folder()
        temporary_folder()  # Ray and the verification want it
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
            local=here,
            again=again,
            journal=journal,
            began=began,
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
    local: bool,
    again: bool,
    journal: TrialLoggers,
    began: float,
) -> StudyResult:
    spec = prepared.spec
    with Store.open(database, create=True) as store:
        record = enter(store, prepared)
        lease = store.acquire(
            spec.study,
            owner=lease_heartbeat.this_process(),
            seconds=lease_heartbeat.LEASE_SECONDS,
            stale=lease_heartbeat.surely_dead,
            keep_request=again,
        )
        interruption = Interruption()
        state, reason = StudyState.FAILED, "the driver failed"
        with lease_heartbeat.signals(interruption):
            try:
                # The heartbeat must have ended before the lease is given back.
                with lease_heartbeat.heartbeat(store, lease, interruption):
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
                        local=local,
                        journal=journal,
                        began=began,
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
                f"The search was stopped: {interruption.reason}", hint="Run the same command again."
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
    local: bool
    journal: TrialLoggers
    began: float
    spec: StudySpec = field(init=False)
    budget: Budget = field(init=False)
    before: list[TrialRecord] = field(init=False)
    model: ModelRecord | None = None
    winner: finish.Winner | None = None

    def __post_init__(self) -> None:
        self.spec = self.prepared.spec

    def to_the_end(self) -> ModelRecord | None:
        """Search, confirm, choose, refit, hand out; what earlier drivers did isn't done again.

        Returns:
            The study's model; None where it was interrupted before there was one.
        """
        self.before = before = self.store.trials(self.spec.study)
        searched = [t for t in before if t.role is TrialRole.SEARCH and not members_of(t.params)]
        self.budget = Budget.of_driver(
            self.spec.budget, started=len(searched), spent=self.record.seconds, began=self.began
        )
        ended = [t for t in searched if t.state.final and t.state is not TrialState.CANCELLED]
        left_open = [trial for trial in searched if trial not in ended]
        self._foresee_the_end()
        self.model = model = self._model_that_stands()
        late = self.budget.search_deadline <= time.time()
        over = late or self._ended_with_this_budget() or (not left_open and self.budget.trials_left == 0)
        if model is not None and over:
            return model
        model_files.sweep(self.folder, before)
        try:
            self._drive(self._phases(ended, left_open, over=over))
        finally:
            ray_cluster.stop()
        if self._stopping() or self.winner is None:
            return self.store.model(self.spec.study)
        return self._ending.hand_out(self.winner)

    def _foresee_the_end(self) -> None:
        """Keep time for measuring models; and, until a trial tells what a refit takes, as much as may be."""
        counts = self.prepared.dataset.counts
        operations = max(info.flops for info in self.prepared.backbones)
        search = self.spec.search
        members = search.members if search.refit else 1
        val, test = counts.get("val", 0), counts.get("test", 0)
        offered = search.finalists if search.refit and search.ensemble and members > 1 else 1
        # Training items are looked at once, for what is none of them.
        known = min(counts.get("train", 0), abstention.REFERENCES) if self.prepared.task.abstains else 0
        self.budget.verification = looking(operations, items=2 * offered * val + known)
        self.budget.opening = looking(operations, items=2 * members * (val + test) + known)
        # Workers keep the deadline that they were given: it may only move away.
        if self.budget.worth_keeping and (self.spec.search.refit or self.spec.search.confirm_seeds):
            self.budget.after_search = math.inf

    def _ended_with_this_budget(self) -> bool:
        """Whether the study is complete and was given no more since.

        A search may end before its minutes do, where no other trial fits in; those are not to be spent later.
        """
        if self.record.state is not StudyState.COMPLETE:
            return False
        before, now = BudgetSpec.model_validate(self.record.spec["budget"]), self.spec.budget
        more = (now.minutes or math.inf) > (before.minutes or math.inf)
        return now.trials <= before.trials and not more

    def _stopping(self) -> str:
        return self.interruption.reason

    def _model_that_stands(self) -> ModelRecord | None:
        model = self.store.model(self.spec.study)
        if model is not None and not model_files.intact(model):
            note = f"{model.uri} isn't what was written: it is written anew"
            self.observe(Snapshot(phase="check", note=note))
            return None
        return model

    def _phases(
        self, ended: list[TrialRecord], left_open: list[TrialRecord], *, over: bool
    ) -> Iterator[Driver]:
        """The search, unless it is ``over``; the confirmation of its best; the refit of the winner.

        Each begins when all before it is recorded. What lies between them is done while workers wait, which
        costs less than to start them again.
        """
        if not over:
            source = self._search(ended, left_open)
            driver = self._driver(
                source,
                phase="search",
                total=self.spec.budget.trials,
                deadline=self.budget.search_deadline,
                finished=ended,
                prune=self.spec.search.pruner == "asha",
            )
            driver.observe = partial(self._keep_time, driver)
            yield driver
            if source.exhausted:
                self.observe(Snapshot(phase="search", note="the search ended: every point was tried"))
            if source.settled:
                note = (
                    f"the search ended: {source.perfect} trials have a perfect {self.prepared.metric.name} "
                    "on the validation items: more trials could only tie; more items could tell them apart"
                )
                self.observe(Snapshot(phase="search", note=note))
            if source.too_long is not None:
                note = (
                    f"the search ended: another trial takes about {source.too_long:.0f} s, and less is left"
                )
                self.observe(Snapshot(phase="search", note=note))
        finalists = self._ending.finalists()
        if points := self._ending.confirmations(finalists, slots=self._slots):
            longest = max(finalist.costs.seconds for finalist in finalists)
            keep = self._ending.after_choice(longest, slots=self._slots)
            yield from self._fixed(points, phase=CONFIRM, keep=keep)
        if self._stopping():
            return
        self.winner = self._ending.choose(finalists, model=self.model, before=self.before)
        if self.winner is not None and (points := self._ending.refits(self.winner, slots=self._slots)):
            yield from self._fixed(points, phase=REFIT)

    def _fixed(self, points: list[Point], *, phase: str, keep: float = 0.0) -> Iterator[Driver]:
        """A driver of known points; of the time that is left, half at most is kept for what comes after."""
        left = self.budget.seconds_left
        if left is None or left > 0:
            yield self._driver(
                Fixed(points, heads=is_heads(self.prepared.strategies), at_once=self._heads_at_once()),
                phase=phase,
                total=len(points),
                deadline=self.budget.deadline - min(keep, 0.5 * left) if left is not None else math.inf,
                finished=[],
                prune=False,
            )

    def _keep_time(self, driver: Driver, told: Snapshot) -> None:
        """Leave as much time for confirming and refitting as what leads now would take."""
        seconds = driver.candidate_seconds
        # Workers keep the deadline that they were given. What the first heads take says nothing of those that
        # begin after them and train layers: until then as much time is kept as may be.
        known = driver.trains or all(map(driver.heads, self.prepared.strategies))
        if seconds is not None and known and self.budget.worth_keeping:
            self.budget.after_search = self._ending.after_search(seconds, slots=self._slots)
            driver.deadline = self.budget.search_deadline
        self.observe(told)

    @property
    def _slots(self) -> int:
        """Trials at once; where no worker was needed so far, none is started to find out."""
        return self._backend.slots() if "_backend" in self.__dict__ else 1

    @cached_property
    def _ending(self) -> Ending:
        return Ending(
            prepared=self.prepared,
            store=self.store,
            lease=self.lease,
            folder=self.folder,
            cache=self.cache,
            budget=self.budget,
            observe=self.observe,
            stopping=self._stopping,
            created=self.record.created,
        )

    def _search(self, ended: list[TrialRecord], left_open: list[TrialRecord]) -> Searching:
        elders = inherited(self.store, self.record)
        sampler = Sampler(
            self.prepared.space,
            kind=self.spec.search.sampler,
            minimize=self.prepared.metric.minimize,
            trials=self.spec.budget.trials,
            # Strategies that the study names are all to be tried, those that are just installed need not be.
            exploration=EXPLORATION if self.spec.strategies is None else 1.0,
            # A fork begins where its elders are: it is to draw other points than they did.
            seed=self.spec.seed + len(elders),
        )
        sampler.rebuild([*ended, *left_open], elders=elders, curves=self.store.curves(self.spec.study))
        searching = Searching(
            sampler,
            self.budget,
            left_open=[again(trial) for trial in left_open],
            next_number=self.store.next_number(self.spec.study),
            seed=self.spec.seed,
            heads=is_heads(self.prepared.strategies),
            at_once=self._heads_at_once(),
        )
        metric = self.prepared.metric
        searching.perfect_value = None if metric.minimize or metric.unit else 1.0
        return searching

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
            budget=self.budget,
            deadline=deadline,
            slots=lambda: self._backend.slots(),
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
    def _assignment(self) -> WorkerConfig:
        return assign(
            self.prepared,
            cache=self.cache,
            artifacts=self.folder,
            threads=self.spec.resources.cpus_per_trial,
            cuda=False,
        )

    @cached_property
    def _backend(self) -> TrialBackend:
        """What runs the trials; Ray is started, or joined, when the first one is due."""
        if self.local:
            return LocalBackend(self._assignment, at_once=self.spec.resources.concurrent or 1)
        # Here, while Ray starts: its import takes seconds, which a local run has no use for.
        from tlsearch.search.backends.ray_tune import RayTuneBackend

        workers = allocate(
            self.prepared, store=self.store, lease=self.lease, address=self.address, observe=self.observe
        )
        return RayTuneBackend(workers, self._assignment, self.spec, alone=self.address is None)

    def _drive(self, drivers: Iterator[Driver]) -> None:
        """Have a backend run one phase's points after another's, until there are no more, or time is up."""
        phases = PhaseSequence(drivers)
        first = None
        if self.address is None and not self.local:
            first = first_heads.backend(self.prepared, self._assignment)
        try:
            if first is not None:
                first.run(phases)
            while not phases.over and not self._stopping():
                self._backend.run(phases)
                if not self._stopping():
                    phases.leave()  # its workers were ended, or it is over
        except WorkError:
            if not self._stopping():  # whoever stops us may have stopped Ray's processes as well
                raise
        finally:
            phases.close()
