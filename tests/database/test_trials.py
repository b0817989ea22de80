"""Trials: starting, recording, ending, querying."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import event

from tests.database.conftest import Finish, create, outcome, point, result
from tlsearch.database.store import Lease, Store
from tlsearch.errors import StudyConflictError, UnknownNameError
from tlsearch.records import Artifact, Costs, EpochRecord, TrialRole, TrialState

ARTIFACT = Artifact(uri="file:///artifacts/flowers/0.safetensors", sha256="ab" * 32, bytes=7_000_000_000)


def numbers(store: Store, **filters: object) -> list[int]:
    return [trial.number for trial in store.trials("flowers", **filters)]  # type: ignore[arg-type]


def test_a_trial_from_start_to_end(store: Store, lease: Lease) -> None:
    assert store.next_number("flowers") == 0
    store.start_trials(lease, [point(0), point(1, role=TrialRole.CONFIRM, confirms=0)], node="10.0.0.7")
    running = store.trial("flowers", 0)
    assert (running.state, running.finished, running.node) == (TrialState.RUNNING, None, "10.0.0.7")
    assert running.point == point(0)
    assert datetime.now(UTC) - running.started < timedelta(seconds=30)
    assert [trial.number for trial in store.running("flowers")] == [0, 1]
    assert store.trial("flowers", 1).point == point(1, role=TrialRole.CONFIRM, confirms=0)

    ending = outcome(0.75, artifact=ARTIFACT)
    batch = [result(0, 1, 0.5), result(0, 2, 0.75, outcome=ending), result(1, 1, 0.25)]
    assert store.record(lease, batch) == []
    trial = store.trial("flowers", 0)
    assert (trial.state, trial.reason, trial.value) == (TrialState.COMPLETE, "all 4 epochs", 0.75)
    assert (trial.metrics, trial.costs) == ({"accuracy": 0.75}, ending.costs)
    assert (trial.freeze_depth, trial.groups, trial.cache) == (4, 10, "prefix")
    assert trial.artifact == ARTIFACT
    assert trial.finished is not None
    assert trial.finished >= trial.started
    assert store.epochs("flowers", 0) == [
        EpochRecord(1, 0.5, {"train_loss": 0.25}, 0.5),
        EpochRecord(2, 0.75, {"train_loss": 0.25}, 0.5),
    ]
    assert store.counts("flowers") == {
        **dict.fromkeys(TrialState, 0),
        TrialState.COMPLETE: 1,
        TrialState.RUNNING: 1,
    }
    assert store.study("flowers").counts == store.counts("flowers")
    assert store.next_number("flowers") == 2

    store.forget_artifacts(lease, [0, 1, 77])
    assert store.trial("flowers", 0) == replace(trial, artifact=None)


def test_starting_again_changes_nothing(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(0), point(1)])
    store.record(lease, [result(0), result(1, outcome=outcome())])
    before = store.trials("flowers")
    store.start_trials(lease, [point(0), point(1)])
    assert store.trials("flowers") == before
    assert len(store.epochs("flowers", 0)) == 1


def test_a_number_belongs_to_one_point(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(0)])
    with pytest.raises(StudyConflictError, match="Trial 0 is stored already with another backbone, seed"):
        store.start_trials(lease, [point(1), point(0, seed=18, backbone="timm/vit")])
    assert numbers(store) == [0]


def test_a_retry_takes_over_the_row(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(0)], node="a")
    store.record(lease, [result(0, 1), result(0, 2, outcome=outcome(None, state=TrialState.FAILED))])
    store.start_trials(lease, [point(0, attempt=2)], node="b")
    trial = store.trial("flowers", 0)
    assert (trial.state, trial.attempt, trial.node) == (TrialState.RUNNING, 2, "b")
    assert (trial.reason, trial.value, trial.metrics, trial.finished) == ("", None, {}, None)
    assert trial.costs == Costs()
    assert store.epochs("flowers", 0) == []
    assert numbers(store) == [0]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_a_finished_trial_never_runs_again(store: Store, lease: Lease, state: TrialState) -> None:
    store.start_trials(lease, [point(0)])
    store.record(lease, [result(0, outcome=outcome(state=state))])
    with pytest.raises(StudyConflictError, match=f"Trial 0 is {state}"):
        store.start_trials(lease, [point(0, attempt=2)])
    assert store.trial("flowers", 0).state is state


def test_a_trial_that_goes_on_from_a_checkpoint_has_one_curve(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(0)])
    store.record(lease, [result(0, epoch, epoch / 10) for epoch in (1, 2, 3, 4)])
    store.start_trials(lease, [point(0, attempt=2)], keep_epochs=True)
    store.record(lease, [result(0, 3, 0.9, attempt=2)])
    curve = [(epoch.epoch, epoch.value) for epoch in store.epochs("flowers", 0)]
    assert curve == [(1, 0.1), (2, 0.2), (3, 0.9)]  # the first attempt's epochs 3 and 4 were lost with it


def test_late_results_are_handed_back_and_not_stored(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(0), point(1), point(2)])
    store.start_trials(lease, [point(0, attempt=2)])
    late = [
        result(0, 1, 0.99, outcome=outcome(0.99)),  # of the first attempt
        result(0, 1, 0.99, attempt=3),  # of one that was never started
        result(7, 1, 0.99),  # of no trial
    ]
    in_time = [result(0, 1, 0.1, attempt=2), result(1, 1, 0.2, outcome=outcome(0.2))]
    after_its_end = result(1, 2, 0.99)
    assert store.record(lease, [*late, *in_time, after_its_end]) == [*late, after_its_end]
    assert [epoch.value for epoch in store.epochs("flowers", 0)] == [0.1]
    assert [epoch.value for epoch in store.epochs("flowers", 1)] == [0.2]
    again = result(1, 3, 0.99, outcome=outcome(0.99))
    assert store.record(lease, [again]) == [again]
    assert store.trial("flowers", 1).value == 0.2
    assert store.record(lease, []) == []


def test_an_epoch_told_twice_is_stored_once(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(0)])
    store.record(lease, [result(0, 1, 0.1), result(0, 1, 0.2)])
    store.record(lease, [result(0, 1, 0.3)])
    assert [epoch.value for epoch in store.epochs("flowers", 0)] == [0.3]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_what_is_no_number_is_never_best(
    store: Store, lease: Lease, finish: Finish, bad: float | None, direction: str
) -> None:
    create(store, "other", direction=direction)
    other = store.acquire("other", owner="ann@host:1:0")
    store.start_trials(other, [point(0), point(1)])
    ending = outcome(bad, metrics={"loss": bad, "accuracy": 0.5}, costs=Costs(seconds=math.nan))
    assert store.record(other, [result(0, 1, bad, metrics={"train_loss": bad}, outcome=ending)]) == []
    assert store.best("other") == []
    store.record(other, [result(1, 1, 0.5, outcome=outcome(0.5))])
    assert [trial.number for trial in store.best("other", limit=10)] == [1]
    trial = store.trial("other", 0)
    assert (trial.value, trial.metrics, trial.costs.seconds) == (None, {"accuracy": 0.5}, 0.0)
    assert store.epochs("other", 0) == [EpochRecord(1, None, {}, 0.5)]
    assert [trial.number for trial in store.trials("other", sort="value", descending=True)] == [1, 0]
    assert [trial.number for trial in store.trials("other", sort="value")] == [1, 0]


def test_numpy_numbers_are_numbers(store: Store, lease: Lease) -> None:
    params = {"learning_rate": np.float64(0.1), "layers": np.int64(3), "augment": np.bool_(True)}
    store.start_trials(lease, [point(0, params=params)])
    ending = outcome(np.float32(0.5), metrics={"accuracy": np.float32(0.5)})
    assert store.record(lease, [result(0, 1, np.float32(0.5), outcome=ending)]) == []
    trial = store.trial("flowers", 0)
    assert (trial.value, trial.params) == (0.5, {"learning_rate": 0.1, "layers": 3, "augment": True})


def test_best_is_what_brute_force_finds(store: Store, lease: Lease) -> None:
    random = np.random.default_rng(0)
    for direction in ("maximize", "minimize"):
        create(store, direction, direction=direction)
        held = store.acquire(direction, owner="ann@host:1:0")
        states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELLED]
        points = [
            point(
                number,
                strategy=f"strategy_{number % 3}",
                backbone=f"backbone_{number % 2}",
                role=TrialRole.CONFIRM if number % 11 == 0 else TrialRole.SEARCH,
            )
            for number in range(200)
        ]
        store.start_trials(held, points)
        results = []
        for number in range(180):  # the last twenty go on running
            costs = Costs(
                trainable_parameters=int(random.integers(3)), total_parameters=int(random.integers(100))
            )
            value = float(random.choice([0.1, 0.2, 0.3, math.nan, math.inf]))
            state = states[0] if random.random() < 0.7 else states[int(random.integers(4))]
            results.append(result(number, outcome=outcome(value, state=state, costs=costs)))
        assert store.record(held, results) == []

        sign = -1 if direction == "maximize" else 1
        for filters in ({}, {"strategy": "strategy_1"}, {"backbone": "backbone_0", "max_parameters": 50}):
            right = sorted(
                (sign * trial.value, trial.costs.total_parameters, trial.number)
                for trial in store.trials(direction, role=TrialRole.SEARCH, states=[TrialState.COMPLETE])
                if trial.value is not None
                and trial.strategy == filters.get("strategy", trial.strategy)
                and trial.backbone == filters.get("backbone", trial.backbone)
                and trial.costs.total_parameters <= filters.get("max_parameters", 100)
            )
            found = store.best(direction, limit=None, **filters)
            assert [trial.number for trial in found] == [number for _, _, number in right]
            assert [trial.number for trial in store.best(direction, **filters)] == [right[0][2]]
        assert {trial.role for trial in store.best(direction, limit=9, role=TrialRole.CONFIRM)} == {
            TrialRole.CONFIRM
        }


def test_trials_are_filtered_sorted_and_paged(store: Store, lease: Lease) -> None:
    kinds = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    store.start_trials(lease, [point(n, strategy=s, backbone=b) for n, (s, b) in enumerate(kinds)])
    for number, seconds in ((0, 3.0), (1, 1.0), (2, 2.0)):
        ending = outcome(seconds / 10, costs=Costs(seconds=seconds, total_parameters=number))
        store.record(lease, [result(number, outcome=ending)])
    assert numbers(store) == [0, 1, 2, 3]
    assert numbers(store, descending=True) == [3, 2, 1, 0]
    assert numbers(store, strategy="a") == [0, 1]
    assert numbers(store, strategy="a", backbone="y") == [1]
    assert numbers(store, states=[TrialState.RUNNING]) == [3]
    assert numbers(store, states=[]) == []
    assert numbers(store, role=TrialRole.CONFIRM) == []
    assert numbers(store, sort="seconds", states=[TrialState.COMPLETE]) == [1, 2, 0]
    assert numbers(store, sort="value", descending=True) == [0, 2, 1, 3]
    assert numbers(store, sort="value", limit=2) == [1, 2]
    assert numbers(store, limit=2, offset=1) == [1, 2]
    assert numbers(store, offset=3) == [3]
    with pytest.raises(UnknownNameError, match=r'sorted by "valeu".*Did you mean "value"'):
        numbers(store, sort="valeu")
    with pytest.raises(UnknownNameError, match="sorted by"):
        numbers(store, sort="number; DROP TABLE trials")


def test_only_running_trials_are_ended_from_outside(store: Store, lease: Lease) -> None:
    store.start_trials(lease, [point(number) for number in range(4)])
    store.record(lease, [result(0, outcome=outcome(0.9))])
    reached = outcome(0.4, state=TrialState.PRUNED, reason="ASHA at epoch 2")
    ended = store.end_trials(
        lease, [0, 1, 2, 88], TrialState.CANCELLED, "Ctrl-C", outcomes={0: reached, 1: reached}
    )
    assert ended == [1, 2]
    assert store.trial("flowers", 0).value == 0.9
    pruned, cancelled = store.trial("flowers", 1), store.trial("flowers", 2)
    assert (pruned.state, pruned.reason, pruned.value) == (TrialState.PRUNED, "ASHA at epoch 2", 0.4)
    assert pruned.costs == reached.costs
    assert (cancelled.state, cancelled.reason) == (TrialState.CANCELLED, "Ctrl-C")
    assert cancelled.finished is not None
    assert numbers(store, states=[TrialState.RUNNING]) == [3]
    with pytest.raises(ValueError, match="RUNNING"):
        store.end_trials(lease, [3], TrialState.RUNNING, "?")
    with pytest.raises(ValueError, match="RUNNING"):
        store.record(lease, [result(3, outcome=outcome(state=TrialState.RUNNING))])
    assert store.epochs("flowers", 3) == []


def test_a_batch_costs_a_few_statements(store: Store, lease: Lease) -> None:
    """A thousand outcomes a second: the number of round trips doesn't grow with the batch."""
    sent: list[str] = []

    @event.listens_for(store._database.engine, "before_cursor_execute")
    def count(*arguments: object) -> None:
        sent.append(str(arguments[2]))

    per_size = []
    for size, first in ((10, 0), (1000, 10)):
        batch = range(first, first + size)
        sent.clear()
        store.start_trials(lease, [point(number) for number in batch])
        store.record(lease, [result(number, outcome=outcome()) for number in batch])
        per_size.append(len(sent))
    # Inserts may be cut into pages; one statement a row would be two thousand.
    assert per_size[0] <= 12
    assert per_size[1] <= 24


def test_best_has_an_index_to_walk(sqlite_url: str) -> None:
    with Store.open(sqlite_url, create=True) as store, store._database.engine.connect() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT * FROM trials WHERE study_id = 1 AND state = 'COMPLETE' "
            "AND role = 'search' AND value IS NOT NULL ORDER BY value DESC, trainable_parameters, number "
            "LIMIT 1"
        ).all()
        assert "ix_trials_best" in str(plan)
        assert "RIGHT PART OF ORDER BY" in str(plan) or "LAST" in str(plan)  # only ties are sorted
