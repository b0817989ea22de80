"""Studies, leases and models."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.database.conftest import DATASET, Finish, create, outcome, point, result
from tlsearch.database.store import Lease, Store
from tlsearch.errors import StudyConflictError, UnknownNameError
from tlsearch.records import ModelRecord, PluginVersion, StudyItems, StudyState, TrialState

HOSTILE = [
    "'; DROP TABLE trials; --",
    'a "quoted" name',
    "100%_like\\",
    "#?&=/../x",
    "花の研究 🌷",
    "NUL \x00 and a lone \udcff surrogate",
]


def test_a_study_comes_back_as_it_was_given(store: Store) -> None:
    before = datetime.now(UTC)
    create(store, spec={"study": "flowers", "nested": {"low": 1e-5, "list": [1, None, True]}})
    study = store.study("flowers")
    assert study.spec == {"study": "flowers", "nested": {"low": 1e-5, "list": [1, None, True]}}
    assert (study.metric, study.direction, study.fingerprint) == ("accuracy", "maximize", "f" * 64)
    assert study.plugins == (PluginVersion("tlsearch.strategies", "fine_tune", "tlsearch", "0.1.0"),)
    assert study.versions == {"torch": "2.14"}
    assert (study.state, study.reason) == (StudyState.INTERRUPTED, "not started yet")
    assert study.counts == dict.fromkeys(TrialState, 0)
    assert study.seconds == 0
    assert before <= study.created <= study.updated <= datetime.now(UTC)
    assert study.created.utcoffset() is not None
    assert store.find_study("flowers") == study
    assert store.dataset("f" * 64) == DATASET


def test_numbers_that_are_none_are_stored_as_null(store: Store) -> None:
    create(store, spec={"low": float("nan"), "list": [float("inf"), 1.5]})
    assert store.study("flowers").spec == {"low": None, "list": [None, 1.5]}


def test_a_taken_name_is_a_conflict_and_changes_nothing(store: Store) -> None:
    create(store)
    with pytest.raises(StudyConflictError, match='"flowers" exists already'):
        create(store, metric="f1")
    assert store.study("flowers").metric == "accuracy"
    create(store, "birds", dataset=replace(DATASET, source="elsewhere"))
    assert [study.name for study in store.studies()] == ["flowers", "birds"]


def test_studies_of_the_same_data_have_counts_of_their_own_splits(store: Store) -> None:
    for name, splits in (("flowers", ("train", "train", "val")), ("birds", ("train", "val", "test"))):
        create(store, name)
        lease = store.acquire(name, owner="me@here:1:0")
        store.fix_items(lease, StudyItems(("a", "b", "c"), ("0", "1", "2"), ("x", "x", "x"), splits))
    assert store.data_of("flowers").counts == {"train": 2, "val": 1, "test": 0}
    assert store.data_of("birds").counts == {"train": 1, "val": 1, "test": 1}
    create(store, "old")
    assert store.data_of("old") == DATASET, "an older version kept no items"


def test_unknown_names_are_guessed(store: Store) -> None:
    create(store)
    assert store.find_study("flower") is None
    for ask in (
        store.study,
        store.trials,
        store.best,
        store.counts,
        store.next_number,
        store.model,
        store.delete_study,
    ):
        with pytest.raises(UnknownNameError, match=r'No study "flower".*Did you mean "flowers"') as caught:
            ask("flower")
        assert caught.value.hint == "There are: flowers."
    for near in ("FLOWERS", "lowe"):
        with pytest.raises(UnknownNameError, match='Did you mean "flowers"'):
            store.study(near)
    with pytest.raises(UnknownNameError, match='No study "flower"'):
        store.acquire("flower", owner="ann@host:1:0")
    with pytest.raises(UnknownNameError, match="has no trial 3"):
        store.trial("flowers", 3)
    with pytest.raises(UnknownNameError, match="fingerprint"):
        store.dataset("0")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_data(store: Store, name: str) -> None:
    create(store)
    create(store, name, metric=name)
    lease = store.acquire(name, owner=name)
    store.start_trials(lease, [point(0, backbone=name, strategy=name, params={name: name})], node=name)
    ending = outcome(0.5, reason=name)
    assert store.record(lease, [result(0, metrics={name: 1.0}, outcome=ending)]) == []
    (trial,) = store.trials(name, strategy=name, backbone=name)
    assert trial.params == {name: name}
    assert store.epochs(name, 0)[0].metrics == {name: 1.0}
    store.release(lease, state=StudyState.COMPLETE)
    store.delete_study(name)
    assert [study.name for study in store.studies()] == ["flowers"]


def test_deleting_takes_what_hangs_on_the_study_and_no_more(store: Store, lease: Lease) -> None:
    create(store, "birds")
    birds = store.acquire("birds", owner="bob@host:2:0")
    for held in (lease, birds):
        store.start_trials(held, [point(0)])
        store.record(held, [result(0)])
    with pytest.raises(StudyConflictError, match="ann@host:1:0"):
        store.delete_study("flowers")
    store.delete_study("flowers", stale=lambda owner: owner == "ann@host:1:0")
    assert store.find_study("flowers") is None
    assert len(store.epochs("birds", 0)) == 1
    create(store)
    assert store.trials("flowers") == []
    assert store.check() == []


def test_update_replaces_what_is_given(store: Store, lease: Lease) -> None:
    store.update_study(lease, versions={"torch": "3.0"})
    store.update_study(lease, spec={"study": "flowers", "budget": {"trials": 90}}, plugins=[])
    study = store.study("flowers")
    assert (study.versions, study.plugins) == ({"torch": "3.0"}, ())
    assert study.spec["budget"] == {"trials": 90}


def test_a_held_study_says_who_holds_it(store: Store, lease: Lease) -> None:
    time_pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    with pytest.raises(
        StudyConflictError, match=f'run by "ann@host:1:0" since {time_pattern}, at least until {time_pattern}'
    ):
        store.acquire("flowers", owner="bob@host:2:0", stale=lambda owner: False)
    store.renew(lease)
    assert store.study("flowers").state is StudyState.RUNNING


def test_a_dead_owner_is_taken_over_at_once(store: Store, lease: Lease) -> None:
    asked: list[str] = []
    taken = store.acquire("flowers", owner="bob@host:2:0", stale=lambda owner: not asked.append(owner))
    assert asked == ["ann@host:1:0"]
    assert (taken.study, taken.owner) == ("flowers", "bob@host:2:0")
    assert taken.token > lease.token


def test_an_expired_lease_is_taken_over_and_its_holder_fenced(store: Store) -> None:
    create(store)
    late = store.acquire("flowers", owner="ann@host:1:0", seconds=0.2)
    store.start_trials(late, [point(0), point(1)])
    time.sleep(0.3)
    assert store.record(late, [result(0)]) == []  # nobody took it: still good
    study = store.study("flowers")
    assert study.state is StudyState.INTERRUPTED
    assert "ann@host:1:0 stopped without a word" in study.reason
    store.acquire("flowers", owner="bob@host:2:0")
    assert store.study("flowers").state is StudyState.RUNNING

    model = ModelRecord("flowers", 0, "file:///m", "0" * 64, 1, True, {}, datetime.now(UTC))
    before = (store.study("flowers"), store.trials("flowers"), store.epochs("flowers", 0))
    for write in (
        lambda: store.record(late, [result(0, 2, outcome=outcome())]),
        lambda: store.start_trials(late, [point(2)]),
        lambda: store.end_trials(late, [1], TrialState.FAILED, "late"),
        lambda: store.forget_artifacts(late, [0]),
        lambda: store.pin_model(late, model),
        lambda: store.update_study(late, spec={}),
        lambda: store.renew(late, elapsed=5),
        lambda: store.release(late, state=StudyState.FAILED, reason="late"),
    ):
        with pytest.raises(StudyConflictError, match=r'"ann@host:1:0" no longer runs .*"bob@host:2:0" does'):
            write()
    assert (store.study("flowers"), store.trials("flowers"), store.epochs("flowers", 0)) == before
    assert store.model("flowers") is None


def test_the_same_owner_voids_its_earlier_lease(store: Store, lease: Lease) -> None:
    again = store.acquire("flowers", owner=lease.owner)
    with pytest.raises(StudyConflictError):
        store.renew(lease)
    store.renew(again)


def test_release_sets_the_study_free_with_its_state(store: Store, lease: Lease) -> None:
    store.renew(lease, elapsed=2.5)
    store.renew(lease, elapsed=1.5)
    store.release(lease, state=StudyState.COMPLETE, reason="60 of 60 trials")
    study = store.study("flowers")
    assert (study.state, study.reason, study.seconds) == (StudyState.COMPLETE, "60 of 60 trials", 4.0)
    with pytest.raises(StudyConflictError, match="released"):
        store.start_trials(lease, [point(0)])
    assert store.acquire("flowers", owner="bob@host:2:0").token > lease.token


def test_the_model_is_pinned_and_replaced(store: Store, lease: Lease, finish: Finish) -> None:
    assert store.model("flowers") is None
    finish(0, 0.8)
    made = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    model = ModelRecord(
        study="flowers",
        trial=0,
        uri="file:///models/flowers",
        sha256="ab" * 32,
        bytes=7_000_000_000,
        verified=True,
        metrics={"val": {"accuracy": 0.8, "loss": float("nan")}, "test": {"accuracy": 0.79}},
        created=made,
    )
    store.pin_model(lease, model)
    stored = replace(model, metrics={"val": {"accuracy": 0.8}, "test": {"accuracy": 0.79}})
    assert store.model("flowers") == stored
    store.pin_model(lease, replace(stored, sha256="cd" * 32, verified=False))
    assert store.model("flowers") == replace(stored, sha256="cd" * 32, verified=False)
    with pytest.raises(UnknownNameError, match=re.escape("has no trial 9")):
        store.pin_model(lease, replace(model, trial=9))
    with pytest.raises(ValueError, match="birds"):
        store.pin_model(lease, replace(model, study="birds"))


def test_states_that_make_no_sense_are_refused(store: Store, lease: Lease) -> None:
    with pytest.raises(ValueError, match="RUNNING"):
        store.release(lease, state=StudyState.RUNNING)
    with pytest.raises(ValueError, match="sideways"):
        create(store, "birds", direction="sideways")
