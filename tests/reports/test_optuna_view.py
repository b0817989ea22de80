"""Our database through Optuna's own eyes: its storage tests as far as they read, and its tools."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner

import tlsearch
from tlsearch.cli.app import app
from tlsearch.database.store import Store
from tlsearch.errors import InputError, UnknownNameError
from tlsearch.records import DatasetRecord, EpochResult, Outcome, Point, TrialRole
from tlsearch.records import TrialState as OurState
from tlsearch.reports.optuna_trials import ranges
from tlsearch.reports.optuna_view import OptunaView, export

READING = {
    "test_get_study_id_from_name_and_get_study_name_from_id",
    "test_create_new_trial_with_template_trial_read",
    "test_get_trial_number_from_id",
    "test_get_all_trials_deepcopy_option",
    "test_get_all_trials_state_option",
    "test_get_n_trials",
    "test_get_n_trials_state_option",
    "test_get_trial_id_from_study_id_trial_number",
    "test_check_trial_is_updatable",
}
"""The tests of Optuna's that ask. The others set what an Optuna storage must keep and ours doesn't have:
attributes of anybody's, several objectives, infinite values, trials that wait."""


class Seeded(OptunaView):
    """The view, with just enough writing (to our tables, not through Optuna) to set its tests up."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._made = 0

    def create_new_study(self, directions: Sequence[Any], study_name: str | None = None) -> int:
        self._made += 1
        name = study_name or f"study {self._made}"
        self._store.create_study(
            name=name,
            spec={},
            metric="accuracy",
            direction=directions[0].name.lower(),
            dataset=DatasetRecord("f", "folder", ("a", "b"), {}),
            plugins=[],
            versions={},
        )
        return self.get_study_id_from_name(name)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        name = self.get_study_name_from_id(study_id)
        lease = self._store.acquire(name, owner="tests")
        number = self._store.next_number(name)
        self._store.start_trials(
            lease, [Point(number, "a/b", "s", dict(template_trial.params) if template_trial else {}, 0)]
        )
        if template_trial is not None and template_trial.state.is_finished():
            state = {"COMPLETE": "COMPLETE", "PRUNED": "PRUNED", "FAIL": "FAILED"}[template_trial.state.name]
            outcome = Outcome(OurState(state), "because", template_trial.value)
            self._store.record(lease, [EpochResult(number, 1, 1, 1, template_trial.value, outcome=outcome)])
        self._seen.clear()
        return self.get_trial_id_from_study_id_trial_number(study_id, number)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None: ...
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None: ...
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None: ...
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None: ...


class TestReadsAsOptunaExpects(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path):
        url = f"sqlite:///{tmp_path}/studies.db"
        Store.open(url, create=True).close()
        storage = Seeded(url)
        yield storage
        storage.close()


for _name in [name for name in dir(StorageTestCase) if name.startswith("test_") and name not in READING]:
    setattr(TestReadsAsOptunaExpects, _name, None)


@pytest.fixture
def view(searched):
    view = OptunaView(searched.url)
    yield view
    view.close()


@pytest.fixture
def records(searched):
    with searched.store as store:
        return [t for t in store.trials(searched.name) if t.role is TrialRole.SEARCH]


def test_an_optuna_storage_that_takes_a_copy_reads_the_same(view, searched):
    ours = optuna.load_study(study_name=searched.name, storage=view)
    theirs = optuna.create_study(study_name=searched.name, direction="maximize")
    theirs.add_trials(ours.trials)
    assert len(ours.trials) == 15
    assert (ours.best_value, ours.best_params) == (theirs.best_value, theirs.best_params)
    table = ours.trials_dataframe().rename(columns={"value_accuracy": "value"})
    assert table.equals(theirs.trials_dataframe())
    assert ours.direction == theirs.direction
    for state in TrialState:
        assert view.get_n_trials(ours._study_id, state) == theirs._storage.get_n_trials(
            theirs._study_id, state
        )
    for mine, other in zip(ours.trials, theirs.trials, strict=True):
        assert view.get_trial(mine._trial_id) == mine
        assert view.get_trial_params(mine._trial_id) == theirs._storage.get_trial_params(other._trial_id)
        for name in mine.params:
            assert view.get_trial_param(mine._trial_id, name) == theirs._storage.get_trial_param(
                other._trial_id, name
            )


def test_every_trial_is_there_as_it_ended(view, searched, records):
    (study,) = view.get_all_studies()
    trials = {trial.number: trial for trial in view.get_all_trials(study._study_id)}
    assert list(trials) == [record.number for record in records]
    names = {OurState.COMPLETE: "COMPLETE", OurState.PRUNED: "PRUNED", OurState.FAILED: "FAIL"}
    for record in records:
        trial = trials[record.number]
        assert trial.state.name == names[record.state]
        assert trial.params["strategy"] == record.strategy
        assert {
            f"{record.strategy}.{hyperparameter}": value for hyperparameter, value in record.params.items()
        }.items() <= trial.params.items()
        assert trial.user_attrs["why it ended"] == record.reason
        trial._validate()
    with searched.store as store:
        curve = store.epochs(searched.name, 9)
    assert trials[9].intermediate_values == {epoch.epoch: epoch.value for epoch in curve}
    assert len(curve) == 3
    assert study.user_attrs["winner"].startswith("trial ")


def test_optunas_plots_and_measures_take_it(searched):
    study = tlsearch.open(searched.url).study(searched.name).to_optuna()
    assert study.metric_names == ["accuracy"]
    plot = optuna.visualization
    for figure in (
        plot.plot_optimization_history(study),
        plot.plot_parallel_coordinate(study, params=["strategy", "backbone"]),
        plot.plot_slice(study, params=["fine_tune.learning_rate"]),
        plot.plot_intermediate_values(study),
    ):
        assert figure.data
    assert set(optuna.importance.get_param_importances(study, params=["strategy"])) == {"strategy"}


def test_whatever_would_write_is_refused_with_a_sentence(searched):
    study = tlsearch.open(searched.url).study(searched.name).to_optuna()
    with searched.store as store:
        before = store.trials(searched.name)
    for write in (
        lambda: study.set_user_attr("a", 1),
        lambda: study.ask(),
        lambda: study.enqueue_trial({"a": 1}),
        lambda: study.add_trial(study.trials[0]),
        lambda: optuna.delete_study(study_name=searched.name, storage=study._storage),
        lambda: optuna.create_study(storage=study._storage, study_name="new"),
    ):
        with pytest.raises(InputError, match="can't be changed through Optuna"):
            write()
    with searched.store as store:
        assert store.trials(searched.name) == before
        assert [study.name for study in store.studies()] == [searched.name]


def test_travels_between_processes(view):
    again = pickle.loads(pickle.dumps(view))
    assert [s.study_name for s in again.get_all_studies()] == [s.study_name for s in view.get_all_studies()]
    again.close()


def test_a_copy_of_trials_is_a_copy(view):
    (study,) = view.get_all_studies()
    first = view.get_all_trials(study._study_id)
    kept = copy.deepcopy(first)
    first[0].params["backbone"] = "changed"
    assert view.get_all_trials(study._study_id) == kept


def test_ranges_are_what_was_tried_widened_by_the_study_file():
    found = ranges(
        [{"a.lr": 1e-4, "a.k": 3, "a.on": True, "a.x": 1}, {"a.lr": 1e-2, "a.k": 5, "a.on": 1, "a.x": 1.5}],
        {"a.lr": {"low": 1e-5, "high": 1e-1}, "*.k": {"high": 9}},
    )
    assert found["a.lr"] == FloatDistribution(1e-5, 1e-1, log=True)
    assert found["a.k"] == IntDistribution(3, 9)
    assert isinstance(found["a.on"], CategoricalDistribution)
    assert len(found["a.on"].choices) == 2
    assert found["a.x"] == FloatDistribution(1.0, 1.5)


def test_export_copies_into_optunas_own_database(searched, tmp_path, records):
    target = f"sqlite:///{tmp_path}/optuna.db"
    done = CliRunner().invoke(app, ["export-optuna", searched.name, "--to", target, "--db", searched.url])
    assert done.exit_code == 0, done.output
    copied = optuna.load_study(study_name=searched.name, storage=target)
    ours = tlsearch.open(searched.url).study(searched.name).to_optuna()
    assert len(copied.trials) == len(records)
    assert copied.best_value == ours.best_value
    assert [t.user_attrs["trial"] for t in copied.trials] == [r.number for r in records]
    assert [t.params for t in copied.trials] == [t.params for t in ours.trials]
    with pytest.raises(InputError, match="already"):
        export(searched.url, searched.name, target)


def test_export_says_what_is_wrong(searched, tmp_path):
    with pytest.raises(InputError, match="itself"):
        export(searched.url, searched.name, searched.url)
    with pytest.raises(InputError, match="Can't write to nonsense"):
        export(searched.url, searched.name, "nonsense")
    with pytest.raises(UnknownNameError, match='Did you mean "tiny"'):
        export(searched.url, "tinny", f"sqlite:///{tmp_path}/x.db")
    assert list(tmp_path.iterdir()) == []
