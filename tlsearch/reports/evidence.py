"""All that a report about a study is made of, read from the database at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlsearch.contracts.combination import members_of
from tlsearch.database.store import Store
from tlsearch.records import (
    DatasetRecord,
    EpochRecord,
    ModelRecord,
    StudyItems,
    StudyRecord,
    TrialRecord,
    TrialRole,
    TrialState,
)
from tlsearch.reports.versions import Version, versions
from tlsearch.search.finalists import Finalist, ranked
from tlsearch.spec import parse
from tlsearch.training.objective import task_of


@dataclass(frozen=True, slots=True)
class Evidence:
    """A study with its trials, learning curves (by trial number) and model, and what it extends."""

    study: StudyRecord
    dataset: DatasetRecord
    trials: Sequence[TrialRecord]
    curves: Mapping[int, Sequence[EpochRecord]]
    model: ModelRecord | None
    finalists: Sequence[Finalist]
    items: StudyItems | None
    metric_words: str
    versions: Sequence[Version] = ()

    @property
    def minimize(self) -> bool:
        """Whether smaller is better."""
        return self.study.direction == "minimize"

    @property
    def searched(self) -> list[TrialRecord]:
        """Trials of the search, without repetitions of finalists."""
        return [trial for trial in self.trials if trial.role is TrialRole.SEARCH]

    @property
    def complete(self) -> list[TrialRecord]:
        """Trials of the search that have a value to be compared by."""
        return [t for t in self.searched if t.state is TrialState.COMPLETE and t.value is not None]

    @property
    def winner(self) -> TrialRecord | None:
        """The trial whose model was promoted; before that, the leading one."""
        if self.model is not None:
            return next(trial for trial in self.trials if trial.number == self.model.trial)
        return self.finalists[0].trial if self.finalists else None

    @property
    def strategies(self) -> list[str]:
        """Names in the order in which trials tried them: each keeps its colour through all figures."""
        return list(dict.fromkeys(trial.strategy for trial in self.searched))

    def better(self, value: float, other: float) -> bool:
        """Whether a value beats another."""
        return value < other if self.minimize else value > other

    def best_of(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The trial with the best value; of equals the winner, then the earlier one."""
        sign = 1 if self.minimize else -1
        won = self.winner.number if self.winner is not None else None
        return min(
            (trial for trial in trials if trial.value is not None),
            key=lambda trial: (sign * (trial.value or 0.0), trial.number != won, trial.number),
            default=None,
        )


def gather(store: Store, study: str, *, finalists: int = 5) -> Evidence:
    """Read a study.

    Args:
        store: the database.
        study: its name.
        finalists: how many leading trials are compared where none was repeated with fresh seeds.

    Raises:
        UnknownNameError: there is no such study.
    """
    record = store.study(study)
    trials = store.trials(study)
    confirmed = [trial for trial in trials if trial.role is TrialRole.CONFIRM]
    model = store.model(study)
    compared = {trial.confirms for trial in confirmed} | ({model.trial} if model is not None else set())
    if len(compared) < 2:
        compared |= {trial.number for trial in store.best(study, limit=finalists)}
    leading = [trial for trial in trials if trial.number in compared and trial.value is not None]
    combined = [trial for trial in leading if members_of(trial.params)]
    plain = [trial for trial in leading if trial not in combined]
    minimize = record.direction == "minimize"
    dataset = store.data_of(study)
    task = task_of(parse(record.spec))
    items = dataset.counts.get("val", 0) if task.metric(record.metric).share else 0
    tie = task.metric(task.tie_breaker)
    tried = Counter(trial.strategy for trial in store.best(study, limit=None))
    order = (
        ranked(plain, confirmed, minimize=minimize, combined=combined, items=items, tried=tried, tie=tie)
        if plain
        else []
    )
    if model is not None:  # the promoted one first, whatever was tried since
        order.sort(key=lambda finalist: finalist.trial.number != model.trial)
    return Evidence(
        study=record,
        dataset=dataset,
        trials=trials,
        curves=store.curves(study),
        model=model,
        finalists=order,
        items=store.items(study),
        metric_words=task.metric(record.metric).words,
        versions=versions(store, study),
    )
