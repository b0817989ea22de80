"""A run of a study that this process holds: search, confirm, choose, refit, hand out, phase by phase."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from tlsearch.contracts import Recipe
from tlsearch.contracts.combination import members_of
from tlsearch.errors import WorkError
from tlsearch.records import ModelRecord, Point, StudyRecord, StudyState, TrialRecord, TrialRole, TrialState
from tlsearch.search import finish, model_files, own_process, ray_cluster
from tlsearch.search.allocation import EXPLORATION, charge
from tlsearch.search.backends.local import LocalBackend
from tlsearch.search.backends.trial_backend import TrialBackend
from tlsearch.search.budget import Budget, looking, training
from tlsearch.search.control import inherited
from tlsearch.search.driver import Driver, HeldStudy, Phase
from tlsearch.search.ending import CONFIRM, REFIT, Ending
from tlsearch.search.extension import refits_only, starts
from tlsearch.search.finalists import again
from tlsearch.search.measurer import Measurer
from tlsearch.search.phase_sequence import PhaseSequence
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.sampler import Sampler
from tlsearch.search.setup import Prepared, assign
from tlsearch.search.trial_queue import Fixed, Searching
from tlsearch.search.workers import allocate
from tlsearch.spec import BudgetSpec
from tlsearch.training.length import count_updates
from tlsearch.training.workspace import WorkerConfig

MANY_HEADS, FEW_HEADS = 32, 8
"""Heads in one turn at most, and where a search has a minute or two."""
HEADS_SECONDS = 5.0
"""Seconds beyond the deadline in which heads of known points may be fitted."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How and where this process runs a study.

    Attributes:
        cache: folder of decoded items and activations.
        observe: told how it goes.
        address: of a Ray cluster; None starts Ray on this machine.
        threads: of a trial in this process, where all run here; None where Ray has workers for them.
        began: when the study's minutes began, as `time.time` counts.
        measurer: the process that verifies models.
        short: whether the search is too short for workers.
    """

    cache: Path
    observe: Observer
    address: str | None
    threads: int | None
    began: float
    measurer: Measurer
    short: bool = False


@dataclass
class StudyRun:
    """One driver's run of a study that it holds, phase by phase.

    Attributes:
        prepared: the study.
        held: the right to write to it, and what its phases share.
        record: the study as it was in the database.
        settings: how and where it runs.
        budget: what may still be spent.
        before: trials that there were when this driver began.
        model: that the study has.
        winner: that was chosen.
        searched: what the search told last.
    """

    prepared: Prepared
    held: HeldStudy
    record: StudyRecord
    settings: RunSettings
    budget: Budget = field(init=False)
    before: list[TrialRecord] = field(init=False)
    model: ModelRecord | None = None
    winner: finish.Winner | None = None
    searched: Snapshot | None = None

    def __post_init__(self) -> None:
        self.spec = self.held.spec
        self.store = self.held.store
        self.observe = self.settings.observe

    def to_the_end(self) -> ModelRecord | None:
        """Search, confirm, choose, refit, hand out; what earlier drivers did isn't done again.

        Returns:
            The study's model; None where it was interrupted before there was one.
        """
        self.before = before = self.store.trials(self.spec.study)
        searched = [t for t in before if t.role is TrialRole.SEARCH and not members_of(t.params)]
        self.budget = Budget.of_driver(
            self.spec.budget, started=len(searched), spent=self.record.seconds, began=self.settings.began
        )
        ended = [t for t in searched if t.state.final and t.state is not TrialState.CANCELLED]
        left_open = [trial for trial in searched if trial not in ended]
        self._foresee_the_end()
        self.model = model = self._model_that_stands()
        late = self.budget.search_deadline <= time.time()
        over = late or self._ended_with_this_budget() or (not left_open and self.budget.trials_left == 0)
        if model is not None and over:
            return model
        model_files.sweep(self.held.place, before)
        try:
            self._drive(self._phases(ended, left_open, over=over))
        finally:
            ray_cluster.stop()
        if self.held.stopping() or self.winner is None:
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
        known = self.prepared.references
        begun = self.settings.measurer.begun
        self.budget.verification = looking(
            operations, items=2 * offered * val + known, networks=offered, begun=begun
        )

        def opened(members: int) -> float:  # by the process that has verified
            items = 2 * members * (val + test) + known
            return looking(operations, items=items, networks=members * offered, begun=True)

        self.budget.opening = opened(members)
        if self.spec.budget.minutes is not None and not self.budget.worth_keeping:
            # No network is refitted: it is the winner's, and perhaps the backbone's own beneath a head.
            self.budget.opening = opened(min(members, 2))
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
            yield from self._search(ended, left_open)
        if not self.held.stopping():
            self._begin_measurer()
        finalists = self._ending.finalists()
        refits = refits_only(self.store, self.record, trials=self.spec.budget.trials)
        if points := [] if refits else self._ending.confirmations(finalists, slots=self._slots):
            longest = max(finalist.costs.seconds for finalist in finalists)
            keep = self._ending.after_choice(longest, slots=self._slots)
            yield from self._fixed(points, phase=CONFIRM, keep=keep)
        if self.held.stopping():
            return
        self.winner = self._ending.choose(finalists, model=self.model, before=self.before)
        if self.winner is not None and (points := self._ending.refits(self.winner, slots=self._slots)):
            yield from self._fixed(points, phase=REFIT)

    def _search(self, ended: list[TrialRecord], left_open: list[TrialRecord]) -> Iterator[Driver]:
        """The driver of the search, and why the search ended if not by its budget."""
        source = self._proposals(ended, left_open)
        driver = self._driver(
            Phase(
                "search",
                source,
                total=self.spec.budget.trials,
                deadline=self.budget.search_deadline,
                finished=ended,
                prune=self.spec.search.pruner == "asha",
            )
        )
        driver.observe = partial(self._keep_time, driver, source)
        yield driver
        if source.exhausted:
            self._say("the search ended: every point was tried")
        if source.settled:
            self._say(
                f"the search ended: {source.perfect} trials have a perfect {self.prepared.metric.name} "
                "on the validation items: more trials could only tie; more items could tell them apart"
            )
        if source.too_long is not None:
            self._say(
                f"the search ended: a trial takes about {source.too_long:.0f} s, and less is left for it"
                + (", so that only heads were fitted" if source.heads_alone else "")
            )

    def _say(self, note: str) -> None:
        self.observe(Snapshot(phase="search", note=note))

    def _fixed(self, points: list[Point], *, phase: str, keep: float = 0.0) -> Iterator[Driver]:
        """A driver of known points; of the time that is left, half at most is kept for what comes after.

        Heads are fitted in a moment: they have it even where no time is left.
        """
        left = self.budget.seconds_left
        heads = all(self.held.heads(point.strategy) for point in points)
        if left is None or left > 0 or heads:
            source = Fixed(points, heads=self.held.heads, at_once=self._heads_at_once())
            deadline = self.budget.deadline - min(keep, 0.5 * left) if left is not None else math.inf
            if heads:
                deadline = max(deadline, time.time() + HEADS_SECONDS)
            driver = self._driver(Phase(phase, source, total=len(points), deadline=deadline))
            driver.observe = self._tell_of_runs
            yield driver

    def _tell_of_runs(self, told: Snapshot) -> None:
        """The best stays the search's: runs that repeat it, or learn from validation items, are no better."""
        best = self.searched or Snapshot(phase=told.phase)
        self.observe(replace(told, best=best.best, leading=best.leading, by_strategy=best.by_strategy))

    def _keep_time(self, driver: Driver, source: Searching, told: Snapshot) -> None:
        """Leave as much time for confirming and refitting as what leads now would take."""
        seconds = driver.candidate_seconds
        # Workers keep the deadline that they were given. What the first heads take says nothing of those that
        # begin after them and train layers: until then as much time is kept as may be.
        heads_alone = source.heads_alone or all(map(self.held.heads, self.prepared.strategies))
        known = driver.trains or heads_alone
        if seconds is not None and known and self.budget.worth_keeping:
            self.budget.after_search = self._ending.after_search(seconds, slots=self._slots)
        if known:
            driver.deadline = self.budget.search_deadline
        if source.over:  # the last trials still run: nobody waits for the measurer after them
            self._begin_measurer()
        self.searched = told
        self.observe(told)

    def _begin_measurer(self) -> None:
        self.settings.measurer.begin(self.spec.families)

    @property
    def _slots(self) -> int:
        """Trials at once; where no worker was needed so far, none is started to find out."""
        return self._backend.slots() if "_backend" in self.__dict__ else 1

    @cached_property
    def _ending(self) -> Ending:
        return Ending(
            prepared=self.prepared,
            store=self.store,
            lease=self.held.lease,
            folder=self.held.place,
            cache=self.settings.cache,
            budget=self.budget,
            observe=self.observe,
            stopping=self.held.stopping,
            created=self.record.created,
            measurer=self.settings.measurer,
        )

    def _proposals(self, ended: list[TrialRecord], left_open: list[TrialRecord]) -> Searching:
        """The points of the search: those that were left open or are set, then what the sampler proposes."""
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
        first = starts(
            self.store, self.record, self.prepared.space, trials=self.spec.budget.trials, seed=self.spec.seed
        )
        known = {trial.number for trial in self.before}
        untried = [point for point in first if point.number not in known]
        self.budget.started += len(untried)
        searching = Searching(
            sampler,
            self.budget,
            left_open=[*(again(trial) for trial in left_open), *untried],
            next_number=max(self.store.next_number(self.spec.study), len(first)),
            seed=self.spec.seed,
            heads=self.held.heads,
            at_once=self._heads_at_once(),
            foreseen=self._foreseen,
        )
        metric = self.prepared.metric
        searching.perfect_value = None if metric.minimize or metric.unit else 1.0
        return searching

    def _foreseen(self, point: Point) -> float:
        """Seconds that a trial of layers takes at least; 0 where GPUs or other machines may be quicker."""
        if self.settings.address is not None or torch.cuda.is_available():
            return 0.0
        batch = Recipe().batch_size
        batches = math.ceil(self.prepared.dataset.counts["train"] / batch)
        items = batch * count_updates(self.spec.budget, 1.0, self.spec.budget.rounds, max(1, batches))
        trained = charge(point.params) * self.prepared.backbone(point.backbone).flops
        return training(trained, items=items, cpus=self._assignment.threads)

    def _heads_at_once(self) -> int:
        """Heads in one turn: many, but no branch of heads gets more than a third of the trials unasked."""
        if self.spec.search.heads_per_trial is not None:
            return self.spec.search.heads_per_trial
        branches = sum(branch.heads for branch in self.prepared.space.branches)
        most = FEW_HEADS if self.settings.short else MANY_HEADS
        return max(1, min(most, self.spec.budget.trials // (3 * max(1, branches))))

    def _driver(self, phase: Phase) -> Driver:
        return Driver(
            self.held,
            phase,
            budget=self.budget,
            slots=lambda: self._backend.slots(),
            observe=self.observe,
        )

    @cached_property
    def _assignment(self) -> WorkerConfig:
        return assign(
            self.prepared,
            cache=self.settings.cache,
            artifacts=self.held.place,
            threads=self.settings.threads or self.spec.resources.cpus_per_trial,
            cuda=False,
        )

    @cached_property
    def _backend(self) -> TrialBackend:
        """What runs the trials; Ray is started, or joined, when the first one is due."""
        if self.settings.threads is not None:
            return LocalBackend(self._assignment, at_once=self.spec.resources.concurrent or 1)
        # Here, while Ray starts: its import takes seconds, which a local run has no use for.
        from tlsearch.search.backends.ray_tune import RayTuneBackend

        address = self.settings.address
        workers = allocate(
            self.prepared, store=self.store, lease=self.held.lease, address=address, observe=self.observe
        )
        return RayTuneBackend(workers, self._assignment, self.spec, alone=address is None)

    def _drive(self, drivers: Iterator[Driver]) -> None:
        """Have a backend run one phase's points after another's, until there are no more, or time is up."""
        phases = PhaseSequence(drivers)
        first = None
        if self.settings.address is None and self.settings.threads is None:
            first = own_process.backend(self.prepared, self._assignment)
        try:
            if first is not None:
                first.run(phases)
            while not phases.over and not self.held.stopping():
                self._backend.run(phases)
                if not self.held.stopping():
                    phases.leave()  # its workers were ended, or it is over
        except WorkError:
            if not self.held.stopping():  # whoever stops us may have stopped Ray's processes as well
                raise
        finally:
            phases.close()
