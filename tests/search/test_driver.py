"""The driver on a real database, its workers played by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tlsearch import registry
from tlsearch.database.store import Lease, Store
from tlsearch.files import write_durably
from tlsearch.records import Costs, DatasetRecord, EpochResult, Outcome, Point, TrialState
from tlsearch.search import space as spaces
from tlsearch.search.budget import Budget
from tlsearch.search.driver import Driver, HeldStudy, Phase
from tlsearch.search.loggers import TrialLoggers
from tlsearch.search.phase_sequence import PhaseSequence
from tlsearch.search.progress import Snapshot
from tlsearch.search.sampler import Sampler
from tlsearch.search.trial_queue import PERFECT_TRIALS, Fixed, Searching, group_turns
from tlsearch.spec import parse
from tlsearch.training.objective import metric_of

STUDY = {
    "study": "s",
    "task": "classification",
    "data": {"source": "d"},
    "backbones": ["tiny/net"],
    "search": {"keep": 2, "finalists": 2},
}
COMPLETE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED
CANCELLED, RUNNING = TrialState.CANCELLED, TrialState.RUNNING
HEADS = {"linear_probe": True, "feature_copy": True, "fine_tune": False}


@dataclass
class DriverHarness:
    """A study in a database, and a driver of it."""

    store: Store
    lease: Lease
    folder: Path
    stopping: str = ""
    told: list[Snapshot] = field(default_factory=list)
    driver: Driver = field(init=False)

    def drive(
        self,
        *,
        strategies: tuple[str, ...] = ("fine_tune",),
        trials: int = 20,
        slots: int = 2,
        deadline: float = math.inf,
        at_once: int = 4,
        source: Any = None,
        objective: str = "accuracy",
        combines: bool = False,
        journal: TrialLoggers | None = None,
    ) -> Driver:
        """A new driver, which goes on with what the database knows, as `search.study` does it."""
        spec = parse({**STUDY, "budget": {"trials": trials, "epochs": 4}, "objective": {"metric": objective}})
        info = registry.backbone("tiny/net", weights="pretrained", image_size=None).info
        space = spaces.build({name: registry.strategy(name) for name in strategies}, [info], {})
        records = self.store.trials("s")
        ended = [r for r in records if r.state.final and r.state is not CANCELLED]
        from tlsearch.search.finalists import again

        sampler = Sampler(space, kind="random", minimize=metric_of(spec).minimize, seed=0)
        sampler.rebuild(ended)
        budget = Budget(spec.budget, started=len(records), spent=0)
        points = source or Searching(
            sampler,
            budget,
            left_open=[again(r) for r in records if r not in ended],
            next_number=self.store.next_number("s"),
            seed=0,
            heads=HEADS.__getitem__,
            at_once=at_once,
        )
        held = HeldStudy(
            store=self.store,
            lease=self.lease,
            spec=spec,
            groups={"tiny/net": 3},
            heads=HEADS.__getitem__,
            stopping=lambda: self.stopping,
            journal=journal or TrialLoggers({}),
            combines=combines,
        )
        phase = Phase("search", points, total=trials, deadline=deadline, finished=ended)
        self.driver = Driver(held, phase, budget=budget, slots=lambda: slots, observe=self.told.append)
        return self.driver

    def turn(self) -> list[Point]:
        points = self.driver.next_turn()
        assert points
        return points

    def finish(self, point: Point, value: float | None, *, loss: float = 0.5, **changes: Any) -> Path:
        """Let a worker tell that a point is complete; its weights are a real file."""
        path = self.folder / f"{point.number}-{point.attempt}.safetensors"
        artifact = write_durably(path, lambda draft: draft.write_text(f"weights of {point.number}"))
        outcome = Outcome(
            state=COMPLETE,
            reason="all 4 epochs",
            value=value,
            metrics={"accuracy": value or 0.0, "log_loss": loss},
            costs=Costs(trainable_parameters=10),
            artifact=artifact,
        )
        self.driver.record([epoch(point, 4, value, outcome=outcome, **changes)])
        return path

    def state(self, number: int) -> tuple[TrialState, str]:
        record = self.store.trial("s", number)
        return record.state, record.reason


def epoch(point: Point, number: int = 1, value: float | None = 0.5, **changes: Any) -> EpochResult:
    given = {"number": point.number, "attempt": point.attempt, "epoch": number, "epochs": 4, "value": value}
    return EpochResult(**{**given, "metrics": {"train_loss": 1.0}, "seconds": 0.5, **changes})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[DriverHarness]:
    with Store.open(f"sqlite:///{tmp_path}/s.db", create=True) as store:
        store.create_study(
            name="s",
            spec=STUDY,
            metric="accuracy",
            direction="maximize",
            dataset=DatasetRecord("f" * 64, "d", ("a", "b"), {"train": 1}),
            plugins=[],
            versions={},
        )
        yield DriverHarness(store, store.acquire("s", owner="me@here:1:0"), tmp_path / "weights")


@dataclass
class Begun:
    """A logger that remembers what began."""

    points: list[Point]

    def begin(self, point: Point) -> None:
        self.points.append(point)

    def tell(self, point: Point, result: EpochResult) -> None:
        pass

    def close(self) -> None:
        pass


Play = Callable[[Point], None]


def test_points_are_stored_before_a_worker_gets_them(world):
    world.drive()
    (point,) = world.turn()
    stored = world.store.trial("s", point.number)
    assert stored.state is RUNNING
    assert stored.point == point
    assert (point.number, point.attempt, point.seed) == (0, 1, 0)


def test_no_more_turns_than_slots(world):
    driver = world.drive(slots=2)
    first, _ = world.turn(), world.turn()
    assert driver.next_turn() == []
    world.finish(first[0], 0.5)
    assert [p.number for p in world.turn()] == [2]


def test_a_turn_that_was_put_back_is_the_next_one_again(world):
    begun: list[Point] = []
    journal = TrialLoggers({"begun": Begun(begun)})
    driver = world.drive(slots=1, journal=journal)
    points = world.turn()
    driver.put_back(points)
    assert world.turn() == points
    assert driver.next_turn() == []
    journal.close()
    assert begun == points  # loggers hear of it once
    assert world.store.trial("s", points[0].number).attempt == 1


def test_a_turn_of_heads_takes_one_slot_until_its_last_head_has_ended(world):
    driver = world.drive(strategies=("linear_probe",), slots=1, at_once=3)
    points = world.turn()
    assert [p.number for p in points] == [0, 1, 2]
    world.finish(points[0], 0.5)
    assert driver.next_turn() == []
    world.finish(points[1], 0.5)
    world.finish(points[2], 0.5)
    assert [p.number for p in world.turn()] == [3, 4, 5]


def test_the_trial_budget_is_kept_to_the_last_head(world):
    driver = world.drive(strategies=("linear_probe",), trials=5, slots=9, at_once=3)
    turns = [world.turn(), world.turn()]
    assert [len(turn) for turn in turns] == [3, 2]
    assert driver.next_turn() == []  # none is left, but a worker that is busy may die yet
    for turn in turns:
        for point in turn:
            world.finish(point, 0.5)
    assert driver.next_turn() is None


def test_epochs_are_recorded_as_they_come(world):
    world.drive()
    (point,) = world.turn()
    for number, value in ((1, 0.2), (2, None), (3, 0.4)):
        world.driver.record([epoch(point, number, value)])
    curve = world.store.epochs("s", 0)
    assert [(e.epoch, e.value) for e in curve] == [(1, 0.2), (2, None), (3, 0.4)]
    assert world.state(0)[0] is RUNNING
    world.finish(point, 0.6)
    record = world.store.trial("s", 0)
    assert (record.state, record.reason, record.value) == (COMPLETE, "all 4 epochs", 0.6)
    assert record.finished is not None


def test_freeze_depth_is_recorded_as_groups(world):
    world.drive(strategies=("fine_tune", "linear_probe"), at_once=1)
    depths = {}
    for _ in range(6):
        (point,) = world.turn()
        world.finish(point, 0.5)
        record = world.store.trial("s", point.number)
        assert record.groups == 3
        depths[point.strategy] = record.freeze_depth
        if point.strategy == "fine_tune":
            assert record.freeze_depth == round(point.params["freeze_depth"] * 3)
    assert depths["linear_probe"] == 3


def test_a_depth_that_makes_no_sense_fails_a_trial_and_not_the_driver(world):
    odd = Point(0, "tiny/net", "fine_tune", {"freeze_depth": 7.0}, seed=0)
    driver = world.drive(source=Fixed([odd], heads=HEADS.__getitem__, at_once=1))
    world.turn()
    driver.record([epoch(odd, 0, None, outcome=Outcome(FAILED, "freeze depth is a fraction"))])
    assert world.state(0) == (FAILED, "freeze depth is a fraction")
    assert world.store.trial("s", 0).freeze_depth is None


def test_the_next_driver_begins_when_all_of_the_one_before_is_recorded(world):
    order: list[str] = []

    def drivers() -> Iterator[Driver]:
        for number in (1, 2):
            points = [
                Point(10 * number + k, "tiny/net", "fine_tune", {"freeze_depth": 0.5}, seed=0)
                for k in range(2)
            ]
            yield world.drive(source=Fixed(points, heads=HEADS.__getitem__, at_once=1))
            order.append(f"after {number}: {len(world.store.trials('s'))} trials")

    relay = PhaseSequence(drivers())
    first, second = relay.next_turn(), relay.next_turn()
    assert [turn[0].number for turn in (first, second)] == [10, 11]
    for point in (*first, *second):
        assert relay.next_turn() == [], "what runs may need another worker"
        assert order == []
        relay.record([epoch(point, 4, 0.5, outcome=Outcome(COMPLETE, "", 0.5))])
    assert [point.number for point in relay.next_turn() or []] == [20]
    assert order == ["after 1: 2 trials"]
    world.stopping = "enough"
    assert relay.next_turn() is None
    assert relay.must_stop()
    relay.close()
    assert not relay.over, "another run may go on with it"
    assert world.state(20) == (CANCELLED, "enough")


def test_trials_past_the_deadline_end_before_the_next_driver_begins(world):
    def drivers() -> Iterator[Driver]:
        yield world.drive(deadline=time.time() + 3)
        yield world.drive(
            source=Fixed(
                [Point(99, "tiny/net", "fine_tune", {"freeze_depth": 0.5}, seed=0)],
                heads=HEADS.__getitem__,
                at_once=1,
            )
        )

    relay = PhaseSequence(drivers())
    (point,) = relay.next_turn() or []
    early = relay.deadline
    time.sleep(max(0.0, early - time.time()) + 0.05)
    assert relay.next_turn() == []
    relay.ended([point], None)
    assert world.state(point.number)[0] is CANCELLED
    assert [p.number for p in relay.next_turn() or []] == [99]
    assert relay.deadline > early


def test_a_trial_that_asha_stops_is_pruned_at_its_last_value(world):
    driver = world.drive()
    (point,) = world.turn()
    used = Costs(seconds=0.5, prefix_images=10, suffix_images=40, flops=1e9, trainable_parameters=7)
    driver.record([epoch(point, 2, 0.3, costs=used, cache="prefix")])
    driver.ended([point], None)
    record = world.store.trial("s", 0)
    assert (record.state, record.value) == (PRUNED, 0.3)
    assert "ASHA" in record.reason
    assert "after epoch 2 of 4" in record.reason
    assert (record.costs, record.cache) == (used, "prefix")
    assert driver.tally.counts[PRUNED] == 1


def test_trials_of_a_worker_that_died_go_to_another_as_their_next_attempt(world):
    driver = world.drive(slots=1)
    (point,) = world.turn()
    driver.record([epoch(point, 1, 0.3, node="w1"), epoch(point, 2, 0.4, node="w1")])
    assert world.store.trial("s", 0).node == "w1"
    driver.ended([point], "its worker process died")
    assert world.state(0) == (RUNNING, "")
    assert driver.tally.counts[FAILED] == 0
    driver.record([epoch(point, 3, 0.9)])  # by a worker that was thought to be dead
    again = world.turn()
    assert again == [replace(point, attempt=2)]
    assert driver.next_turn() == []  # one at a time
    # Resumed after epoch 2, which is told again.
    driver.record(
        [epoch(again[0], 2, 0.4, attempt=2, node="w2"), epoch(again[0], 3, 0.5, attempt=2, node="w2")]
    )
    curve = [(e.epoch, e.attempt, e.value) for e in world.store.epochs("s", 0)]
    assert curve == [(1, 1, 0.3), (2, 2, 0.4), (3, 2, 0.5)]
    world.finish(again[0], 0.6, attempt=2)
    record = world.store.trial("s", 0)
    assert (record.state, record.attempt, record.node) == (COMPLETE, 2, "w2")
    assert world.turn()[0].number == 1


def test_what_waits_for_another_worker_is_ended_with_the_search(world):
    driver = world.drive()
    (point,) = world.turn()
    driver.ended([point], "its worker process died")
    world.stopping = "interrupted by SIGINT"
    driver.close()
    assert world.state(0) == (CANCELLED, "interrupted by SIGINT")
    assert world.store.running("s") == []


def test_a_worker_that_dies_again_and_again_fails_its_trials(world):
    driver = world.drive(strategies=("linear_probe",), at_once=3)
    points = world.turn()
    world.finish(points[0], 0.5)
    for attempt in (1, 2, 3):
        assert {p.attempt for p in points} == {attempt}
        driver.ended(points, "its worker process died")
        if attempt < 3:
            points = world.turn()
            assert [p.number for p in points] == [1, 2]
    assert [world.state(n)[0] for n in range(3)] == [COMPLETE, FAILED, FAILED]
    assert "worker process died" in world.state(1)[1]
    assert any("trial 1 (linear_probe)" in snapshot.note for snapshot in world.told)
    assert driver.next_turn()  # and the search goes on


def test_what_a_stop_cuts_off_is_cancelled_with_its_reason(world):
    driver = world.drive()
    (point,) = world.turn()
    driver.record([epoch(point, 1, 0.3)])
    assert not driver.must_stop()
    world.stopping = "interrupted by SIGINT"
    assert driver.must_stop()
    assert driver.next_turn() is None
    driver.ended([point], "its worker process died")  # since it was told to
    state, reason = world.state(0)
    assert state is CANCELLED
    assert reason.startswith("interrupted by SIGINT")
    assert world.store.trial("s", 0).value is None


def test_what_the_time_budget_cuts_off_is_cancelled(world):
    driver = world.drive(deadline=time.time() + 60)
    (point,) = world.turn()
    driver.deadline = time.time() - 0.05
    assert driver.next_turn() is None
    assert not driver.must_stop()  # workers keep the deadline themselves; they get a little longer
    driver.ended([point], None)
    assert world.state(0) == (CANCELLED, "the time budget ran out")
    driver.deadline -= 60
    assert driver.must_stop()


def test_closing_leaves_no_trial_running(world):
    driver = world.drive(strategies=("linear_probe",), at_once=3)
    points = world.turn()
    world.finish(points[0], 0.5)
    driver.close()
    assert [world.state(n)[0] for n in range(3)] == [COMPLETE, CANCELLED, CANCELLED]
    assert world.store.running("s") == []
    driver.close()  # twice does no harm
    driver.ended(points, "late")
    assert world.state(1)[0] is CANCELLED


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_value_that_is_none_is_never_the_best(world, value):
    driver = world.drive()
    (good,) = world.turn()
    world.finish(good, 0.1)
    (bad,) = world.turn()
    driver.record([epoch(bad, 4, value, outcome=Outcome(COMPLETE, "odd", value=value))])
    assert driver.leaders.best is not None
    assert driver.leaders.best.point.number == good.number
    (best,) = world.store.best("s")
    assert best.number == good.number
    assert world.turn()


def test_late_results_are_ignored(world):
    driver = world.drive()
    (point,) = world.turn()
    driver.record([epoch(point, 1, 0.3, attempt=7)])
    driver.record([epoch(replace(point, number=99), 1, 0.3)])
    assert world.store.epochs("s", 0) == []
    driver.ended([point], None)  # pruned
    driver.record([epoch(point, 2, 0.9), epoch(point, 3, 0.9)])
    world.finish(point, 0.95)
    record = world.store.trial("s", 0)
    assert record.state is PRUNED
    assert record.value is None
    assert driver.leaders.best is None
    assert driver.tally.counts == {**dict.fromkeys(TrialState, 0), PRUNED: 1}


def test_the_best_few_keep_their_weights(world):
    world.drive(slots=1)
    paths = {}
    for number, value in enumerate([0.5, 0.9, 0.3, 0.7, 0.8, 0.1]):
        (point,) = world.turn()
        paths[number] = world.finish(point, value)
    assert [number for number, path in paths.items() if path.exists()] == [1, 4]
    records = world.store.trials("s")
    assert [r.number for r in records if r.artifact is not None] == [1, 4]
    assert all(r.state is COMPLETE for r in records)


@pytest.mark.parametrize("combines", [False, True])
def test_fine_tuned_ones_keep_theirs_too_where_they_are_to_be_combined(world, combines):
    world.drive(slots=1, strategies=("fine_tune", "linear_probe"), at_once=1, combines=combines)
    paths, tuned = {}, []
    while len(tuned) < 3 or len(paths) - len(tuned) < 3:
        (point,) = world.turn()
        head = point.strategy == "linear_probe"
        tuned += [] if head else [point.number]
        paths[point.number] = world.finish(point, (0.9 if head else 0.5) + point.number / 1000)
    kept = {number for number, path in paths.items() if path.exists()}
    heads = sorted(set(paths) - set(tuned))
    assert kept == {*heads[-2:], *(tuned[-2:] if combines else tuned[-1:])}, "of each strategy the best stays"


def test_the_smallest_losses_keep_their_weights(world):
    world.drive(slots=1, objective="log_loss")
    paths = {}
    for number, value in enumerate([0.5, 0.9, 0.3, 0.7, 0.2]):
        (point,) = world.turn()
        paths[number] = world.finish(point, value)
    assert [number for number, path in paths.items() if path.exists()] == [2, 4]
    assert world.driver.leaders.best is not None
    assert world.driver.leaders.best.point.number == 4


def test_among_equals_those_stay_that_will_be_finalists(world):
    """With few validation items many trials are equal: the finalists' weights must be there."""
    world.drive(slots=1)
    for loss in (0.5, 0.1, 0.1, 0.9, 0.1, 0.5):
        (point,) = world.turn()
        world.finish(point, 1.0, loss=loss)
    kept = [trial for trial in world.store.trials("s") if trial.artifact is not None]
    assert [trial.number for trial in kept] == [1, 2]
    assert all(Path(trial.artifact.uri).exists() for trial in kept if trial.artifact is not None)


def test_another_driver_goes_on_where_the_first_was_left(world):
    world.drive(slots=4, trials=6)
    points = [world.turn()[0] for _ in range(4)]
    path = world.finish(points[0], 0.9)
    world.driver.record([epoch(points[1], 2, 0.4)])
    world.driver.ended([points[1]], None)  # pruned
    world.stopping = "interrupted by SIGTERM"
    world.driver.ended([points[2]], None)  # cancelled; the fourth is still running when the driver is killed

    world.stopping = ""
    driver = world.drive(slots=9, trials=6)
    assert driver.tally.done == 2
    assert driver.leaders.best is not None
    assert driver.leaders.best.point.number == 0
    again = [world.turn()[0] for _ in range(2)]
    assert [(p.number, p.attempt) for p in again] == [(2, 2), (3, 2)]
    assert [p.params for p in again] == [points[2].params, points[3].params]
    assert world.state(2) == (RUNNING, "")
    fresh = [world.turn()[0] for _ in range(2)]
    assert [(p.number, p.attempt) for p in fresh] == [(4, 1), (5, 1)]
    assert driver.next_turn() == []  # six in all
    seen = [str(sorted(p.params.items())) for p in points + fresh]
    assert len(set(seen)) == 6
    # The killed worker's word comes too late.
    driver.record([epoch(points[3], 4, 1.0, outcome=Outcome(COMPLETE, "late", value=1.0))])
    assert world.state(3)[0] is RUNNING
    world.finish(again[1], 0.2)
    assert world.store.trial("s", 3).attempt == 2
    assert path.exists()


def test_weights_of_earlier_drivers_are_dropped_too(world):
    world.drive(slots=1)
    old = [world.finish(world.turn()[0], value) for value in (0.2, 0.5)]
    world.drive(slots=1)
    new = [world.finish(world.turn()[0], value) for value in (0.4, 0.9)]
    assert [path.exists() for path in old + new] == [False, True, False, True]


def test_an_exhausted_space_ends_the_search(world):
    class Nothing:
        def take(self) -> list[Point]:
            return []

        def learn(self, result: EpochResult) -> None:
            pass

    assert world.drive(source=Nothing()).next_turn() is None


def test_observers_see_how_it_goes(world):
    world.drive(slots=2)
    first, second = world.turn(), world.turn()
    assert world.told[-1].counts[RUNNING] == 2
    world.finish(first[0], 0.5)
    world.driver.record([epoch(second[0], 0, None, outcome=Outcome(FAILED, "no luck"))])
    last = world.told[-1]
    assert (last.phase, last.done, last.total) == ("search", 2, 20)
    assert (last.counts[COMPLETE], last.counts[FAILED], last.counts[RUNNING]) == (1, 1, 0)
    assert last.best is not None
    assert last.best.outcome.value == 0.5
    assert last.by_strategy == {"fine_tune": 0.5}
    assert "trial 1 (fine_tune): no luck" in last.note
    assert last.seconds_left is None


def test_turns_hold_heads_of_one_branch_and_single_points():
    def at(number: int, strategy: str, backbone: str = "a") -> Point:
        return Point(number, backbone, strategy, {}, seed=0)

    points = [
        *(at(0, "linear_probe"), at(1, "fine_tune"), at(2, "linear_probe"), at(3, "linear_probe", "b")),
        *(at(4, "linear_probe"), at(5, "fine_tune")),
    ]
    turns = group_turns(points, heads=HEADS.__getitem__, at_once=2)
    assert [[p.number for p in turn] for turn in turns] == [[0, 2], [1], [3], [4], [5]]
    assert sorted(p.number for turn in turns for p in turn) == list(range(6))


def searching(
    minutes: float | None,
    *strategies: str,
    foreseen: Callable[[Point], float] = lambda point: 0.0,
    space: Mapping[str, Any] = MappingProxyType({}),
) -> Searching:
    info = registry.backbone("tiny/net", weights="pretrained", image_size=None).info
    budget = {"trials": 200, **({"minutes": minutes} if minutes else {})}
    study = parse({**STUDY, "budget": budget, "space": dict(space)})
    built = spaces.build({name: registry.strategy(name) for name in strategies}, [info], study.space)
    return Searching(
        Sampler(built, kind="random", minimize=False, seed=0),
        Budget(study.budget, started=0, spent=0),
        left_open=[],
        next_number=0,
        seed=0,
        heads=HEADS.__getitem__,
        at_once=1,
        foreseen=foreseen,
    )


def took(point: Point, seconds: float) -> EpochResult:
    outcome = Outcome(state=COMPLETE, reason="", value=0.5, costs=Costs(seconds=seconds))
    return EpochResult(point.number, 1, 1, 1, 0.5, outcome=outcome)


@pytest.mark.parametrize(("minutes", "begins"), [(10.0, True), (1.0, False), (None, True)])
def test_a_trial_that_cannot_end_in_time_is_not_begun(minutes, begins):
    """Half a cosine schedule is worth little, and the confirmation of the best can use the time."""
    source = searching(minutes, "fine_tune")
    (first,) = source.take()  # nobody knows yet how long one takes
    source.learn(took(first, 300.0))
    assert bool(source.take()) is begins
    assert (source.too_long is None) is begins


def test_heads_fill_the_time_of_a_last_trial_that_runs():
    source = searching(1.0, "linear_probe", "fine_tune", "feature_copy")
    scout, first, second = (source.take()[0] for _ in range(3))
    assert [scout.strategy, first.strategy, second.strategy] == ["linear_probe", "fine_tune", "fine_tune"]
    source.learn(took(scout, 1.0))
    source.learn(took(first, 300.0))
    assert not source.over
    fillings = [point.strategy for turn in iter(source.take, []) for point in turn]
    assert source.over  # but for what runs
    assert fillings[0] == "feature_copy"
    assert set(fillings) <= {"feature_copy", "linear_probe"}
    assert source.too_long is not None
    assert source.budget.trials_left > 0, "no more of the same heads are tried to fill the time"
    assert not source.exhausted
    source.learn(took(second, 300.0))
    assert source.take() == []


def test_where_no_trial_that_fine_tunes_could_end_each_strategy_of_heads_has_its_turn():
    source = searching(1.0, "linear_probe", "fine_tune", "feature_copy", foreseen=lambda point: 300.0)
    (scout,) = source.take()
    source.learn(took(scout, 1.0))
    (other,) = source.take()
    assert (scout.strategy, other.strategy) == ("linear_probe", "feature_copy")
    source.learn(took(other, 1.0))
    assert source.take() == []
    assert source.heads_alone
    assert not source.exhausted


def test_a_trial_that_ends_in_time_if_nothing_is_refitted_begins_and_no_time_is_kept_for_that():
    source = searching(2.0, "linear_probe", "fine_tune", foreseen=lambda point: 100.0)
    source.budget.after_search = math.inf  # half of the time is kept at first: 60 s
    (scout,) = source.take()
    source.learn(took(scout, 1.0))
    (trained,) = source.take()
    assert trained.strategy == "fine_tune"
    assert not source.budget.worth_keeping
    kept = source.budget.verification + source.budget.opening
    assert source.budget.end - source.budget.search_deadline == pytest.approx(kept)
    assert not source.heads_alone


@pytest.mark.parametrize(("length", "begins"), [(2.0, True), (1.0, False)])
def test_a_long_trial_begins_where_there_is_time_for_one_of_the_usual_length(length, begins):
    fixed = {"fine_tune.length": length, "fine_tune.freeze_depth": 0.0}
    source = searching(2.0, "fine_tune", space=fixed)
    (first,) = source.take()
    source.learn(took(first, 160.0))
    assert bool(source.take()) is begins


def test_where_heads_have_no_score_a_trial_that_fine_tunes_begins_whatever_is_foreseen():
    source = searching(1.0, "linear_probe", "fine_tune", foreseen=lambda point: 300.0)
    assert [source.take()[0].strategy for _ in range(2)] == ["linear_probe", "fine_tune"]
    assert not source.heads_alone


def test_the_time_that_a_winner_will_need_is_foreseen_by_what_runs(world):
    driver = world.drive()
    assert driver.candidate_seconds is None
    assert not driver.trains
    first = world.turn()[0]
    assert driver.trains
    assert driver.candidate_seconds is None, "nothing is known of it"
    driver.record([EpochResult(first.number, 1, 2, 10, 0.5, costs=Costs(seconds=8.0))])
    assert driver.candidate_seconds == 40.0
    world.finish(first, 0.9)
    seconds = driver.leaders.best.outcome.costs.seconds
    assert driver.candidate_seconds == seconds
    assert first.strategy == "fine_tune"
    head = replace(first, number=99, strategy="linear_probe")
    driver.leaders.count(head, Outcome(state=COMPLETE, reason="", value=0.95, costs=Costs(seconds=0.1)))
    assert driver.leaders.best.point.strategy == "linear_probe"
    assert driver.candidate_seconds == seconds, "the best that trains layers is averaged with a head"


def test_the_best_that_is_told_is_the_best_of_best(world):
    driver = world.drive()
    first, second = world.turn()[0], world.turn()[0]
    world.finish(first, 0.9, loss=0.6)
    world.finish(second, 0.9, loss=0.2)
    assert driver.leaders.best is not None
    assert (
        driver.leaders.best.point.number == second.number
    )  # equal values: the smaller log-loss, as `best` has it


def test_interrupted_trials_are_no_progress(world):
    driver = world.drive()
    first, second = world.turn()[0], world.turn()[0]
    world.finish(first, 0.9)
    world.stopping = "interrupted"
    driver.ended([second], None)
    assert world.told[-1].done == 1
    assert world.told[-1].counts[CANCELLED] == 1


@pytest.mark.parametrize(("value", "goes_on"), [(1.0, False), (0.999, True)])
def test_a_search_ends_when_enough_trials_are_perfect(world, value, goes_on):
    driver = world.drive(trials=40)
    source = driver.source
    assert isinstance(source, Searching)
    source.perfect_value = 1.0
    for _ in range(PERFECT_TRIALS):
        assert not source.settled
        world.finish(world.turn()[0], value)
    assert source.settled is not goes_on
    assert bool(driver.next_turn()) is goes_on
