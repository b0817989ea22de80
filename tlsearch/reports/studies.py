"""Questions to the study database that people ask, answered in records that print and serialize."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tlsearch import html_tables
from tlsearch.database.store import Store
from tlsearch.errors import InputError, UnknownNameError
from tlsearch.records import (
    Costs,
    DatasetRecord,
    EpochRecord,
    ModelRecord,
    Params,
    StudyRecord,
    StudyState,
    TrialRecord,
    TrialRole,
    TrialState,
)
from tlsearch.reports import formatting
from tlsearch.reports.baseline import Baseline, baseline_of
from tlsearch.reports.learned import learned_from

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where a verified model lies, and the SHA-256 of its weights."""

    uri: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class BestModel:
    """The best trial of a study under the conditions asked for, and its model where one was promoted.

    ``metrics`` maps ``val`` and, after the test set was opened, ``test`` to metric names and values;
    ``counts`` maps splits to their numbers of items. ``learned_from`` says in words which labelled items the
    model has learned from; ``baseline`` is what one answer for all items scores; ``missing`` says why there
    is no model.
    """

    study: str
    trial: int
    strategy: str
    backbone: str
    freeze_depth: int | None
    groups: int | None
    params: Params
    metrics: Mapping[str, Mapping[str, float]]
    model: ModelFile | None
    metric: str
    value: float | None
    costs: Costs
    seed: int
    counts: Mapping[str, int]
    learned_from: str
    baseline: Baseline | None
    missing: str = ""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        scores: list[tuple[str, object]] = [
            (f"{split} {self.metric}", values.get(self.metric)) for split, values in self.metrics.items()
        ]
        frozen = f"{self.freeze_depth}/{self.groups}" if self.freeze_depth is not None else None
        rows = [("trial", self.trial), ("strategy", self.strategy), ("backbone", self.backbone)]
        rows += [("freeze depth", frozen), *scores, ("learned from", self.learned_from or None)]
        rows.append(("model", self.model and self.model.uri))
        return html_tables.facts(f"best of {self.study}", rows)


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The best trials of a study, the best first; a notebook shows them as a table."""

    study: str
    metric: str
    trials: tuple[TrialRecord, ...]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        columns = ["trial", self.metric, "strategy", "backbone", "freeze depth", "seconds"]
        rows = [
            [
                trial.number,
                trial.value,
                trial.strategy,
                trial.backbone,
                f"{trial.freeze_depth}/{trial.groups}" if trial.freeze_depth is not None else None,
                f"{trial.costs.seconds:.1f}",
            ]
            for trial in self.trials
        ]
        return html_tables.table(f"best trials of {self.study}", columns, rows)


class Study(StudyRecord):
    """A study of a database, which Optuna's tools can look at too."""

    __slots__ = ("_url",)

    @classmethod
    def of(cls, record: StudyRecord, url: str) -> Study:
        """A record with the database that it came from."""
        study = cls(**{field.name: getattr(record, field.name) for field in dataclasses.fields(record)})
        object.__setattr__(study, "_url", url)
        return study

    def to_optuna(self) -> optuna.Study:
        """This study as an `optuna.Study` that can be read: for ``optuna.visualization`` and the like.

        Its trials are those of the moment in which they are asked for. Writing to it is an InputError.
        """
        from tlsearch.reports.optuna_view import to_optuna

        return to_optuna(self._database, self.name)

    def leaderboard(self, limit: int = 10) -> Leaderboard:
        """Its best trials of the search, ``limit`` at most."""
        with Store.open(self._database) as store:
            return Leaderboard(self.name, self.metric, tuple(store.best(self.name, limit=limit)))

    def figures(self) -> dict[str, Figure]:
        """The report's figures of the search by their names, as plotly figures that a notebook shows."""
        from tlsearch.reports.notebook_figures import of_search

        return of_search(self._database, self.name)

    @property
    def _database(self) -> str:
        url: str = getattr(self, "_url")  # noqa: B009 - a slot that dataclass fields don't know
        return url

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_tables.facts(
            self.name,
            [
                ("state", self.state.value.lower()),
                ("metric", self.metric),
                ("trials", formatting.trials(self)),
                ("search time", f"{self.seconds / 60:.1f} min"),
            ],
        )


class Studies:
    """A study database, to be asked. Close it, or use it in a ``with`` block."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store.open(url)

    def __enter__(self) -> Studies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.store.close()

    def studies(self) -> list[Study]:
        """All studies, the oldest first."""
        return [Study.of(record, self.url) for record in self.store.studies()]

    def study(self, name: str) -> Study:
        """One study.

        Raises:
            UnknownNameError: there is none of that name.
        """
        return Study.of(self.store.study(name), self.url)

    def dataset(self, study: str) -> DatasetRecord:
        """The data of a study."""
        return self.store.data_of(study)

    def trials(
        self,
        study: str,
        *,
        state: TrialState | None = None,
        strategy: str | None = None,
        backbone: str | None = None,
        role: TrialRole | None = None,
        sort: str = "number",
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """Trials of a study; ``sort="value"``, or the metric's name, puts the best first."""
        record = self.store.study(study)
        minimize, sort = record.direction == "minimize", "value" if sort == record.metric else sort
        return self.store.trials(
            study,
            states=[state] if state is not None else None,
            strategy=strategy,
            backbone=backbone,
            role=role,
            sort=sort,
            descending=sort == "value" and not minimize,
            limit=limit,
        )

    def trial(self, study: str, number: int) -> tuple[TrialRecord, list[EpochRecord]]:
        """One trial with its learning curve."""
        return self.store.trial(study, number), self.store.epochs(study, number)

    def best(
        self,
        study: str,
        *,
        metric: str | None = None,
        strategy: str | None = None,
        backbone: str | None = None,
        max_params: int | None = None,
    ) -> BestModel:
        """The study's model; under conditions, the best trial that meets them.

        Args:
            study: its name.
            metric: another one than the study's own, on the validation split.
            strategy: only trials of it.
            backbone: only trials of it.
            max_params: at most so many parameters in all.

        Raises:
            UnknownNameError: no such study, or no trial meets the conditions.
        """
        record = self.store.study(study)
        model = self.store.model(study)
        conditions = {"strategy": strategy, "backbone": backbone, "max_parameters": max_params}
        wanted = metric or record.metric
        if wanted != record.metric:
            trial = self._best_by(record, wanted, strategy, backbone, max_params)
        elif model is not None and not any(value is not None for value in conditions.values()):
            trial = self.store.trial(study, model.trial)
        else:
            found = self.store.best(study, strategy=strategy, backbone=backbone, max_parameters=max_params)
            trial = found[0] if found else None
        if trial is None:
            told = [f"{name} {value}" for name, value in conditions.items() if value is not None]
            raise UnknownNameError(
                f'Study "{study}" has no completed trial{" with " + ", ".join(told) if told else ""}.',
                hint=f"`tlsearch trials {study}` lists what there is.",
            )
        own = model if model and model.trial == trial.number else None
        best = _best_model(self.store, record, trial, own, wanted)
        return best if own else dataclasses.replace(best, missing=_missing(record, model))

    def _best_by(
        self,
        record: StudyRecord,
        metric: str,
        strategy: str | None,
        backbone: str | None,
        max_params: int | None,
    ) -> TrialRecord | None:
        # Torch comes with these, and few ask.
        from tlsearch.spec import parse
        from tlsearch.training.objective import task_of

        trials = self.store.trials(
            record.name,
            states=[TrialState.COMPLETE],
            strategy=strategy,
            backbone=backbone,
            role=TrialRole.SEARCH,
        )
        known = sorted({name for trial in trials for name in trial.metrics})
        if trials and metric not in known:
            raise InputError(
                f'No trial of "{record.name}" has a metric "{metric}".', hint=f"Metrics: {', '.join(known)}"
            )
        candidates = [
            trial
            for trial in trials
            if metric in trial.metrics and (max_params is None or trial.costs.total_parameters <= max_params)
        ]
        if not candidates:
            return None
        signed = task_of(parse(record.spec)).metric(metric).signed
        return min(candidates, key=lambda trial: (-signed(trial.metrics[metric]), trial.number))


def to_json(value: Any) -> Any:
    """Records as plain JSON data: dataclasses become objects, times ISO strings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else value


def _missing(record: StudyRecord, model: ModelRecord | None) -> str:
    """Why a trial has no model."""
    if model is not None:
        return f"The study's model comes from trial {model.trial}; only that one is verified."
    if record.state is StudyState.RUNNING:
        return "The search is still running: at its end the study gets its verified model."
    return f"The study has no verified model yet: `tlsearch study resume {record.name}` finishes the search."


def _best_model(
    store: Store, record: StudyRecord, trial: TrialRecord, model: ModelRecord | None, metric: str
) -> BestModel:
    dataset = store.data_of(record.name)
    metrics = model.metrics if model is not None else {"val": dict(trial.metrics)}
    learned = ""
    if model is not None:
        refits = store.trials(record.name, role=TrialRole.REFIT)
        learned = learned_from(record, dataset, model, winner=trial, refits=refits)
    return BestModel(
        study=record.name,
        trial=trial.number,
        strategy=trial.strategy,
        backbone=trial.backbone,
        freeze_depth=trial.freeze_depth,
        groups=trial.groups,
        params=dict(trial.params),
        metrics=metrics,
        model=ModelFile(model.uri, model.sha256, model.bytes) if model is not None else None,
        metric=metric,
        value=trial.metrics.get(metric, trial.value),
        costs=trial.costs,
        seed=trial.seed,
        counts=dataset.counts,
        learned_from=learned,
        baseline=baseline_of(record.audit, metrics, metric),
    )
