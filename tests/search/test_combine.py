"""Finished trials of real trainings are combined: what is recorded, what competes, what stays closed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_bench import bench, point, results, study

from tlsearch import registry
from tlsearch.contracts import Combination, Combined
from tlsearch.contracts.combination import members_of, structure_of
from tlsearch.database.store import Lease, Store
from tlsearch.errors import SpecError, UnknownNameError
from tlsearch.models import bundle
from tlsearch.models.rebuild import rebuild
from tlsearch.records import TrialRecord, TrialRole, TrialState
from tlsearch.search import finalists, finish, plugin_choice, setup
from tlsearch.search.budget import Budget
from tlsearch.search.combine import Combining
from tlsearch.search.ending import Ending
from tlsearch.search.measurer import Measurer
from tlsearch.search.model_files import Finishing
from tlsearch.search.progress import Snapshot, silent
from tlsearch.spec import BudgetSpec
from tlsearch.testing import fixtures, installed
from tlsearch.training.batch_source import BatchSource

COMPLETE, FAILED, CANCELLED = TrialState.COMPLETE, TrialState.FAILED, TrialState.CANCELLED
SPEC = study(
    study="s",
    data={"count": 240, "noise": 90.0},
    strategies=["fine_tune", "linear_probe", "tiny_shrinking"],
    budget={"trials": 8, "epochs": 2},
)

LOG_LOSS = registry.task("classification").metric("log_loss")


class Mean(Combination):
    """Of all members; notes what it was given."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def combine(self, task):
        self.tasks.append(task)
        states = [member.state() for member in task.members]
        mean = {
            name: torch.stack([s[name] for s in states]).mean(0) if tensor.is_floating_point() else tensor
            for name, tensor in states[0].items()
        }
        self.score = task.score(mean)
        return Combined(mean, tuple(member.number for member in task.members), {"kind": "plain"})


class Nothing(Combination):
    def combine(self, task):
        return None


class Raising(Combination):
    def combine(self, task):
        raise RuntimeError("no spoon")


class Leaving(Combination):
    def combine(self, task):
        raise SystemExit("gone")


class Misshapen(Combination):
    def combine(self, task):
        state = dict(task.members[0].state())
        state.pop("head.linear.bias")
        return Combined(state, (task.members[0].number,))


class Foreign(Combination):
    def combine(self, task):
        return Combined(task.members[0].state(), (99,))


class Slow(Combination):
    """Would measure for ever, and catches what it can."""

    def combine(self, task):
        while True:
            try:
                task.score(task.members[0].state())
            except Exception:  # noqa: BLE001
                continue


@dataclass
class SoupEvaluator:
    """A study of five finished trials in a database."""

    store: Store
    lease: Lease
    prepared: setup.Prepared
    folder: Path
    told: list[Snapshot] = field(default_factory=list)

    def run(self, finalists: list[TrialRecord] | None = None, **combinations: Combination):
        return Combining(
            prepared=replace(self.prepared, combinations=combinations),
            store=self.store,
            lease=self.lease,
            folder=str(self.folder / "artifacts"),
            cache=self.cache or self.folder / "cache",
            deadline=self.deadline,
            observe=self.told.append,
            stopping=lambda: self.stopping,
        ).run(finalists if finalists is not None else self.trials(0, 1, 2))

    cache: Path | None = None
    stopping: str = ""
    deadline: float = math.inf

    def trials(self, *numbers: int) -> list[TrialRecord]:
        return [self.store.trial("s", number) for number in numbers]

    def notes(self) -> str:
        return "\n".join(snapshot.note for snapshot in self.told)


def with_depth(result, of):
    """As the driver fills it in."""
    depth = round(3 * of.params.get("freeze_depth", 1.0))
    return replace(result, outcome=result.outcome and replace(result.outcome, freeze_depth=depth, groups=3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list]:
    """Three fine-tunings, one by another strategy, and a head; and a repeated run of the first."""
    folder = tmp_path_factory.mktemp("trained")
    worker = bench(folder, SPEC)
    points = [
        point("fine_tune", 0, freeze_depth=0.34, learning_rate=3e-3),
        point("fine_tune", 1, freeze_depth=0.67, learning_rate=1e-2),
        point("tiny_shrinking", 2, freeze_depth=0.34, learning_rate=1e-2),
        point("linear_probe", 3),
        point("fine_tune", 4, freeze_depth=0.34, learning_rate=3e-3, seed=1),
    ]
    points[4] = replace(points[4], role=TrialRole.CONFIRM, confirms=0)
    torch.set_num_threads(1)
    told = [(each, results(worker, each)) for each in points]
    return folder, [(each, [with_depth(result, each) for result in own]) for each, own in told]


@pytest.fixture
def evaluator(trained, tmp_path: Path) -> Iterator[SoupEvaluator]:
    folder, done = trained
    prepared = setup.prepare(SPEC, cache=folder / "cache", threads=1, observe=silent)
    with Store.open(f"sqlite:///{tmp_path}/s.db", create=True) as store:
        store.create_study(
            name="s",
            spec=SPEC.to_json(),
            metric="accuracy",
            direction="maximize",
            dataset=prepared.dataset,
            plugins=prepared.plugins,
            versions=prepared.versions,
        )
        lease = store.acquire("s", owner="me@here:1:0")
        for each, told in done:
            store.start_trials(lease, [each])
            store.record(lease, told)
        yield SoupEvaluator(store, lease, prepared, folder)


def test_what_is_made_is_a_trial_that_is_rebuilt_and_scores_what_was_recorded(evaluator):
    mean = Mean()
    (made,) = evaluator.run(mean=mean)
    assert (made.number, made.state, made.role) == (5, COMPLETE, TrialRole.SEARCH)
    assert (made.strategy, made.backbone, made.params["kind"]) == ("mean", "tiny/net", "plain")
    (task,) = mean.tasks
    members = members_of(made.params)
    assert sorted(members) == [0, 1, 2], "repeated runs learned from other items, heads are another kind"
    assert [m.score for m in task.members] == sorted((m.score for m in task.members), reverse=True)
    assert made.reason == "combined of finished trials: " + ", ".join(str(n) for n in members)
    first = evaluator.store.trial("s", members[0])
    assert structure_of("mean", made.params) == (first.strategy, dict(first.params))
    assert made.costs.seconds > sum(t.costs.seconds for t in evaluator.trials(*members))
    assert made.costs.trainable_parameters == max(
        t.costs.trainable_parameters for t in evaluator.trials(*members)
    )
    assert made.freeze_depth == min(t.freeze_depth for t in evaluator.trials(*members))

    network = rebuild(
        backbone="tiny/net",
        weights="pretrained",
        image_size=None,
        strategy="mean",  # installed nowhere: a combined model needs its members' strategy alone
        params=made.params,
        **fixtures.learned(3),
        state=load_file(Path(made.artifact.uri)),
    )
    worker = bench(evaluator.folder, SPEC)
    data = worker.data("data", network.info.inputs)
    val = data.indices["val"]
    with torch.inference_mode():
        logits = network(network.info.inputs.to_model(torch.from_numpy(np.asarray(data.array[val]))))
    again = fixtures.score(logits, torch.from_numpy(data.targets[val]))
    assert made.metrics == pytest.approx(again, abs=1e-5)
    assert made.value == made.metrics["accuracy"] == mean.score[0]
    trunk = [name for name in load_file(Path(made.artifact.uri)) if name.startswith("trunk.blocks.0.")]
    assert not trunk, "what no member changed isn't written"


def test_a_study_uses_the_combinations_that_it_names_or_all():
    with installed(combinations={"mean_of_all": Mean, "nothing_at_all": Nothing}):
        everything, left_out = plugin_choice.resolve_combinations(study())
        assert {"mean_of_all", "nothing_at_all"} <= set(everything)
        assert left_out == []
        named = study(strategies=["fine_tune", "mean_of_all"])
        assert list(plugin_choice.resolve_combinations(named)[0]) == ["mean_of_all"]
        assert list(plugin_choice.resolve_strategies(named)[0]) == ["fine_tune"]
        assert plugin_choice.resolve_combinations(study(strategies=["fine_tune"]))[0] == {}
        with pytest.raises(SpecError, match="combinations only combine"):
            plugin_choice.resolve_strategies(study(strategies=["mean_of_all"]))
        with pytest.raises(UnknownNameError, match='Did you mean "mean_of_all"'):
            plugin_choice.resolve_strategies(study(strategies=["fine_tune", "mean_of_al"]))


def test_it_can_win_is_verified_in_a_fresh_process_and_predicts(evaluator, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "tiny"))
    (made,) = evaluator.run(mean=Mean())
    end = Finishing(
        store=evaluator.store,
        lease=evaluator.lease,
        prepared=evaluator.prepared,
        folder=str(tmp_path / "model"),
        provenance={},
        stopping=str,
        progress=lambda done, total: None,
        measurer=Measurer(),
    )
    winner, refused = finish.choose([finalists.Finalist(made, (made.value or 0.0,))], end)
    assert refused == []
    assert winner is not None
    model, told = finish.hand_out(winner, [], end)
    assert told == []
    assert model is not None
    assert (model.trial, model.verified) == (made.number, True)
    assert model.metrics["val"]["accuracy"] == made.value
    assert model.metrics["test"]["accuracy"] > 0.4
    loaded = bundle.load(Path(model.uri))
    items = [np.full((16, 16, 3), shade, np.uint8) for shade in (40, 200)]
    assert set(loaded.predict(items)) <= set(loaded.classes)


def test_it_sees_the_validation_items_alone(evaluator, monkeypatch, tmp_path):
    evaluator.cache = tmp_path / "cache"
    read: set[int] = set()
    original = BatchSource.read

    def noting(self, index, view):
        read.update(index.tolist())
        return original(self, index, view)

    monkeypatch.setattr(BatchSource, "read", noting)
    evaluator.run(mean=Mean())
    data = next(iter(evaluator.prepared.data.values()))
    assert read == set(data.indices["val"].tolist())
    evaluator.run(other=Mean())
    assert evaluator.store.trial("s", 6).cache == "prefix"


def test_a_member_measures_what_was_recorded_for_it(evaluator):
    class Measuring(Combination):
        def combine(self, task):
            self.pairs = [(task.score(member.state()), member.score) for member in task.members]
            self.back = task.score(task.members[0].state())

    measuring = Measuring()
    assert evaluator.run(measuring=measuring) == []
    for measured, recorded in measuring.pairs:
        assert measured == pytest.approx(recorded, abs=1e-4)
    assert measuring.back == measuring.pairs[0][0]


def test_the_same_is_recorded_once(evaluator):
    first = evaluator.run(mean=Mean())
    assert [t.number for t in evaluator.run(mean=Mean())] == [t.number for t in first] == [5]
    assert len(evaluator.store.trials("s")) == 6


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (Raising(), "RuntimeError: no spoon (combination 'odd')"),
        (Leaving(), "SystemExit: gone"),
        (Misshapen(), "head.linear.bias is wrong or missing"),
        (Foreign(), "its members are (99,)"),
    ],
)
def test_what_fails_is_recorded_with_the_reason_and_harms_no_other(evaluator, plugin, reason):
    (made,) = evaluator.run(odd=plugin, mean=Mean())
    assert (made.strategy, made.state) == ("mean", COMPLETE)
    failed = evaluator.store.trial("s", 5)
    assert (failed.strategy, failed.state, failed.value) == ("odd", FAILED, None)
    assert reason in failed.reason
    assert reason in evaluator.notes()
    evaluator.run(odd=plugin)
    assert len(evaluator.store.trials("s")) == 7, "it isn't told again"


def test_nothing_better_is_said(evaluator):
    assert evaluator.run(nothing=Nothing()) == []
    assert "nothing (weight averaging): no better than trial" in evaluator.notes()
    assert len(evaluator.store.trials("s")) == 5


def test_heads_are_not_combined(evaluator):
    (made,) = evaluator.run(evaluator.trials(3), mean=Mean())
    assert 3 not in members_of(made.params), "the best fine-tuned ones are, though no finalist is among them"
    evaluator.store.forget_artifacts(evaluator.lease, [0, 1, 2, 4])
    evaluator.run(evaluator.trials(3), other=Mean())
    assert "nothing to combine" in evaluator.notes()
    assert len(evaluator.store.trials("s")) == 6


def test_weights_that_are_gone_are_no_member(evaluator):
    evaluator.store.forget_artifacts(evaluator.lease, [1])
    (made,) = evaluator.run(mean=Mean())
    assert sorted(members_of(made.params)) == [0, 2]


@pytest.mark.parametrize("how", ["stopped", "late", "on the way"])
def test_it_ends_when_it_must_whatever_a_plugin_catches(evaluator, how):
    evaluator.stopping = "interrupted" if how == "stopped" else ""
    evaluator.deadline = {"late": 0.0, "on the way": time.time() + 3}.get(how, math.inf)
    assert evaluator.run(slow=Slow()) == []
    assert len(evaluator.store.trials("s")) == 5


def test_a_trial_that_a_dead_driver_left_open_is_ended(evaluator):
    (made,) = evaluator.run(mean=Mean())
    left = replace(made.point, number=6, params={**made.params, "kind": "other"})
    evaluator.store.start_trials(evaluator.lease, [left])
    evaluator.run(mean=Mean())
    assert evaluator.store.trial("s", 6).state is CANCELLED


def record(
    number: int, value: float, *, seconds: float = 1.0, trained: TrialRecord, **changes
) -> TrialRecord:
    costs = replace(trained.costs, seconds=seconds)
    return replace(trained, number=number, value=value, costs=costs, **changes)


def test_a_combined_trial_is_judged_by_what_it_gains_over_its_first_member(evaluator):
    (base,) = evaluator.trials(0)
    one, two = record(0, 0.90, trained=base), record(1, 0.80, trained=base)
    again = [
        record(2, 0.80, trained=base, role=TrialRole.CONFIRM, confirms=0),
        record(3, 0.82, trained=base, role=TrialRole.CONFIRM, confirms=0),
        record(4, 0.83, trained=base, role=TrialRole.CONFIRM, confirms=1),
    ]

    def soup(number, value, members):
        return record(
            number, value, seconds=9.0, trained=base, params={"combined": "fine_tune", "members": members}
        )

    def ranked(*soups):
        return finalists.ranked([one, two], again, minimize=False, combined=soups, tie=LOG_LOSS)

    (made,) = (f for f in ranked(soup(7, 0.92, "0 1")) if f.trial.number == 7)
    assert made.values == pytest.approx((0.82, 0.84)), "two points more than the runs of its first member"
    assert made.loss == pytest.approx(next(f for f in ranked() if f.trial.number == 0).loss)
    assert ranked(soup(7, 0.99, "0 1"))[0].trial.number == 7
    (made,) = (f for f in ranked(soup(7, 0.85, "2 1")) if f.trial.number == 7)
    assert made.values == pytest.approx((0.85, 0.87)), "compared with the run that it came from"
    (made,) = (f for f in ranked(soup(7, 0.86, "9")) if f.trial.number == 7)
    assert made.values == pytest.approx((0.89,)), "of no finalist: compared with the best one"


def test_one_lucky_value_does_not_beat_repeated_runs(evaluator):
    (base,) = evaluator.trials(0)
    lucky, steady = record(0, 0.99, trained=base), record(1, 0.90, trained=base)
    again = [record(2, 0.89, trained=base, role=TrialRole.CONFIRM, confirms=1)]
    found = finalists.ranked([lucky, steady], again, minimize=False, tie=LOG_LOSS)
    assert [finalist.trial.number for finalist in found] == [1, 0], "time ended before it was repeated"
    found = finalists.ranked([lucky, steady], [], minimize=False, tie=LOG_LOSS)
    assert [finalist.trial.number for finalist in found] == [0, 1]


def test_a_combined_winners_refit_takes_as_long_as_one_of_its_members(evaluator):
    (made,) = evaluator.run(mean=Mean())
    made = replace(made, costs=replace(made.costs, seconds=1e6))  # of all members, and of measuring
    budget = Budget(BudgetSpec(trials=8, minutes=10.0), started=8, spent=0.0)
    end = Ending(
        prepared=evaluator.prepared,
        store=evaluator.store,
        lease=evaluator.lease,
        folder=str(evaluator.folder / "artifacts"),
        cache=evaluator.folder / "cache",
        budget=budget,
        observe=evaluator.told.append,
        stopping=str,
        created=datetime.now(UTC),
        measurer=Measurer(),
    )
    winner = finish.Winner(finalists.Finalist(made, (made.value,)), {}, {}, flips=False)
    refits = end.refits(winner, slots=1)
    first = evaluator.store.trial("s", members_of(made.params)[0])
    assert len(refits) == evaluator.prepared.spec.search.members, evaluator.notes()
    assert {(refit.strategy, dict(refit.params) == dict(first.params)) for refit in refits} == {
        (first.strategy, True)
    }
    assert {refit.epochs for refit in refits} == {2}, "as long as the member was trained"
