"""From the end of a search to the study's model: repeat the best, choose, refit, hand out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tlsearch import artifacts
from tlsearch.contracts import Recipe
from tlsearch.contracts.combination import members_of
from tlsearch.counts import plural
from tlsearch.database.store import Lease, Store
from tlsearch.errors import SearchError
from tlsearch.records import (
    HANDED_OUT,
    OUT_OF_TIME,
    ModelRecord,
    Point,
    TrialRecord,
    TrialRole,
    TrialState,
)
from tlsearch.search import finish, model_files, refit
from tlsearch.search.budget import Budget, looking
from tlsearch.search.combine import Combining
from tlsearch.search.finalists import confirmations, leaders, ranked, standing, trains
from tlsearch.search.measurer import Measurer
from tlsearch.search.model_files import Finishing
from tlsearch.search.progress import Observer, Snapshot
from tlsearch.search.setup import Prepared
from tlsearch.training.length import count_updates

CONFIRM, VERIFY, REFIT, OPEN = (
    "confirm the best",
    "verify the winner",
    "refit the winner",
    "measure the final model",
)
"""Phases, as they are told."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one study: points for workers, and what the driver does itself between them.

    Attributes:
        prepared: the study.
        store: the database.
        lease: of the study.
        folder: place of the study's files, a folder or a URL.
        cache: folder of decoded items and activations.
        budget: what may still be spent.
        observe: told how it goes.
        stopping: why it is to be left for another time, or empty.
        created: when the study was.
        measurer: the process that verifies models.
    """

    prepared: Prepared
    store: Store
    lease: Lease
    folder: str
    cache: Path
    budget: Budget
    observe: Observer
    stopping: Callable[[], str]
    created: datetime
    measurer: Measurer

    @property
    def study(self) -> str:
        """Its name."""
        return self.prepared.spec.study

    @property
    def _shares(self) -> int:
        """Validation items, where the metric is a share of right answers, or like one; else 0."""
        return self.prepared.dataset.counts["val"] if self.prepared.metric.share else 0

    def finalists(self) -> list[TrialRecord]:
        """The best trials of the search.

        Raises:
            SearchError: there is none.
        """
        spec = self.prepared.spec
        best = [t for t in self.store.best(self.study, limit=None) if not members_of(t.params)]
        if not best:
            raise self._nothing()

        def order(trial: TrialRecord) -> tuple[float, float, int, int]:
            value = trial.value if trial.value is not None else math.inf
            size, minimize = trial.costs.total_parameters, self.prepared.metric.minimize
            number, tie = trial.number, self.prepared.tie
            return standing(value, trial.metrics, size=size, number=number, minimize=minimize, tie=tie)

        tie, many = self.prepared.tie, spec.search.finalists
        return leaders(sorted(best, key=order), many=many, items=self._shares, tie=tie)

    def _nothing(self) -> SearchError:
        """That no trial completed, and what helps."""
        hint = f"`tlsearch trials {self.study}` says why each ended as it did."
        stopped = self.store.trials(self.study, states=[TrialState.CANCELLED])
        if not any(trial.reason.startswith(OUT_OF_TIME) for trial in stopped):
            return SearchError("No trial completed.", hint=hint)
        more = math.ceil(self.prepared.spec.budget.minutes or 1)
        return SearchError(
            "No trial completed in the search's share of the minutes; the rest is kept to verify and refit.",
            hint=f"`tlsearch study resume {self.study} --minutes +{more}` runs them again. {hint}",
        )

    def confirmations(self, finalists: list[TrialRecord], *, slots: int) -> list[Point]:
        """What is left to run of finalists with fresh seeds, as far as the refit leaves time for it."""
        search = self.prepared.spec.search
        seeds = search.confirm_seeds if len(finalists) > 1 else 0
        slow = [finalist for finalist in finalists if trains(finalist)] or finalists  # heads take no time
        seconds = max(finalist.costs.seconds for finalist in slow)
        left = self.budget.seconds_to_train - self.after_choice(seconds, slots=slots)
        runs = refit.affordable(seconds, left=left, members=seeds * len(slow), slots=slots, least=1.0)
        if runs < seeds * len(slow):
            seeds = min(seeds, max(1, runs // len(slow)))
            left_out = slow[runs // seeds :]
            finalists = [finalist for finalist in finalists if finalist not in left_out]
            if len(left_out) == len(slow) or len(finalists) < 2:
                self._say(CONFIRM, ["no time is left to repeat the best trials with other seeds"])
                return []
            told = f"there is time for {plural(seeds, 'other seed')} of {len(finalists)} of the best trials"
            self._say(CONFIRM, [told])
        return confirmations(
            finalists,
            self.store.trials(self.study, role=TrialRole.CONFIRM),
            seeds=seeds,
            first_number=self.store.next_number(self.study),
        )

    def choose(
        self, finalists: list[TrialRecord], *, model: ModelRecord | None, before: list[TrialRecord]
    ) -> finish.Winner | None:
        """The finalist, or the combination, that reproduces its score.

        Args:
            finalists: the best trials of the search.
            model: that the study has.
            before: trials that there were when this driver began.

        Returns:
            The winner; None where it was to stop before, or where the study's model stands.
        """
        combined = self._combined(finalists)
        if self.stopping():
            return None
        if model is not None and self.store.trials(self.study) == before:
            return None  # nothing was left to try: what was found before stands, its test set stays closed
        self.observe(Snapshot(phase=VERIFY))
        order = ranked(
            finalists,
            self.store.trials(self.study, role=TrialRole.CONFIRM),
            minimize=self.prepared.metric.minimize,
            combined=combined,
            items=self._shares,
            tried=Counter(trial.strategy for trial in self.store.best(self.study, limit=None)),
            tie=self.prepared.tie,
        )
        winner, refused = finish.choose(order, self._end(VERIFY))
        self._say(VERIFY, refused)
        if winner is not None and winner.mix is not None:
            names = ", ".join(f"trial {one.number} ({one.strategy})" for one in winner.recipes)
            self._say(VERIFY, [f"predictions of {names} are averaged"])
        if winner is not None and model is not None and self._stands(model, winner):
            return None
        if winner is not None:  # what had to be assumed before it was known; a deadline may only move away
            self.budget.opening = min(self.budget.opening, self._opening(winner))
        return winner

    def _opening(self, winner: finish.Winner) -> float:
        """Seconds in which its refit is measured. Heads share one pass through the backbone."""
        counts = self.prepared.dataset.counts
        slow, members = sum(map(trains, winner.recipes)), self.prepared.spec.search.members
        passes = slow * members + (slow < len(winner.recipes))
        val, test = counts.get("val", 0), counts.get("test", 0)
        flips = winner.mix.flips if winner.mix is not None else winner.flips
        items = passes * (2 * val + (1 + flips) * test) + self.prepared.references
        operations = self.prepared.backbone(winner.trial.backbone).flops
        networks = members * len(winner.recipes)
        return looking(operations, items=items, networks=networks, begun=self.measurer.begun)

    def _stands(self, model: ModelRecord, winner: finish.Winner) -> bool:
        """Whether the model is what would come of this winner: then its test set was opened already."""
        told = model.metrics.get(HANDED_OUT, {})
        as_wished = bool(told.get("refitted")) == self.prepared.spec.search.refit
        return (
            model.trial == winner.trial.number and as_wished and told.get("recipes", 1) == len(winner.recipes)
        )

    def _combined(self, finalists: list[TrialRecord]) -> list[TrialRecord]:
        return Combining(
            prepared=self.prepared,
            store=self.store,
            lease=self.lease,
            folder=self.folder,
            cache=self.cache,
            deadline=self.budget.deadline,
            observe=self.observe,
            stopping=self.stopping,
        ).run(finalists)

    def after_search(self, seconds: float, *, slots: int) -> float:
        """Seconds from the search to the study's model, where the trial that wins takes so many."""
        search = self.prepared.spec.search
        runs = search.finalists * search.confirm_seeds if search.finalists > 1 else 0
        confirming = self.budget.most_confirming(refit.needed(seconds, members=runs, slots=slots))
        return confirming + self.after_choice(seconds, slots=slots) + self.budget.opening

    def after_choice(self, seconds: float, *, slots: int) -> float:
        """Seconds from the choice of a winner, whose trial took so many, to the end of its refit."""
        search = self.prepared.spec.search
        if not search.refit:
            return self.budget.verification
        refitting = refit.needed(seconds * self._growth, members=search.members, slots=slots)
        return self.budget.verification + refitting

    @property
    def _growth(self) -> float:
        """How many times as many updates a refit has, on as many more items."""
        counts, budget = self.prepared.dataset.counts, self.prepared.spec.budget

        def updates(*splits: str) -> int:
            batches = math.ceil(sum(counts.get(name, 0) for name in splits) / Recipe().batch_size)
            return count_updates(budget, 1.0, budget.rounds, max(1, batches))

        return updates("train", "stop", "val") / updates("train")

    def refits(self, winner: finish.Winner, *, slots: int) -> list[Point]:
        """What is left to train of the winning recipes on all items but the test split's, as time allows."""
        search, metric = self.prepared.spec.search, self.prepared.spec.objective.metric
        if not search.refit:
            return []
        # Heads take next to no time.
        slow = [trial for trial in winner.recipes if trains(trial)] or list(winner.recipes)
        wanted = len(slow) * search.members
        members = refit.affordable(
            max(self._trained(trial).costs.seconds for trial in slow) * self._growth,
            left=self.budget.seconds_to_train,
            members=wanted,
            slots=slots,
        )
        if not any(map(trains, winner.recipes)):
            members = max(members, len(slow))
        if members == 0:
            self._say(
                REFIT,
                [f"no time is left to refit {_trials(slow)}: the model is the one trained in the search"],
            )
        elif members < wanted:
            self._say(REFIT, [f"there is time for {members} of {wanted} networks that are fine-tuned"])
        points: list[Point] = []
        for trial in sorted(winner.recipes, key=trains):  # heads first: behind networks there may be no time
            place = slow.index(trial) if trial in slow else None
            many = search.members if place is None else (members + len(slow) - 1 - place) // len(slow)
            trained = self._trained(trial)
            epochs = self.store.epochs(self.study, trained.number)
            points += refit.points(
                trial,
                self.store.trials(self.study, role=TrialRole.REFIT),
                members=many,
                epochs=refit.length(trained, epochs, task=self.prepared.task, metric=metric),
                first_number=self.store.next_number(self.study) + len(points),
            )
        return points

    def _trained(self, trial: TrialRecord) -> TrialRecord:
        """The trial whose recipe a refit follows: of a combined one its first member.

        A combined trial has the seconds of all its members, and one epoch.
        """
        members = members_of(trial.params)
        return self.store.trial(self.study, members[0]) if members else trial

    def hand_out(self, winner: finish.Winner) -> ModelRecord | None:
        """Make the refitted winner, or where there is none the winner itself, the study's model.

        Returns:
            The study's model; None where it was to stop before there was one.
        """
        runs = self.store.trials(self.study, role=TrialRole.REFIT)
        again = {trial.number for trial in winner.recipes} if self.prepared.spec.search.refit else set()
        own = [trial for trial in runs if trial.confirms in again]
        failed = [trial for trial in own if trial.state is TrialState.FAILED]
        self._say(REFIT, [f"trial {trial.number} failed: {trial.reason}" for trial in failed])
        self.observe(Snapshot(phase=OPEN))
        model, told = finish.hand_out(winner, own, self._end(OPEN))
        self._say(OPEN, told)
        if model is None:
            return self.store.model(self.study)
        self._drop([*self.store.trials(self.study, role=TrialRole.CONFIRM), *runs])
        model_files.sweep(self.folder, self.store.trials(self.study), model)
        return model

    def _end(self, phase: str) -> Finishing:
        def progress(done: int, total: int) -> None:
            left = self.budget.seconds_left
            self.observe(Snapshot(phase=phase, done=done, total=total or None, seconds_left=left))

        return Finishing(
            store=self.store,
            lease=self.lease,
            prepared=self.prepared,
            folder=self.folder,
            provenance={"study": self.study, "created": self.created.isoformat()},
            stopping=self.stopping,
            progress=progress,
            measurer=self.measurer,
        )

    def _say(self, phase: str, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.observe(Snapshot(phase=phase, note=sentence))

    def _drop(self, runs: list[TrialRecord]) -> None:
        """Weights of repeated runs have told what they had to tell; those of refits are in the model."""
        kept = [trial for trial in runs if trial.artifact is not None]
        self.store.forget_artifacts(self.lease, [trial.number for trial in kept])
        for trial in kept:
            if trial.artifact is not None:
                artifacts.delete(trial.artifact.uri)


def _trials(trials: Iterable[TrialRecord]) -> str:
    return ", ".join(f"trial {trial.number}" for trial in trials)
