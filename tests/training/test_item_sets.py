"""What a trial of each role learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bench import bench, outcomes, point, results, study

from tests.identified import identified
from tlsearch import registry
from tlsearch.records import Point, TrialRole, TrialState
from tlsearch.training.data import Data, make_data
from tlsearch.training.item_sets import NOT_TEST, items_of, key_of, reshuffles


def as_role(item: Point, role: TrialRole, seed: int = 1) -> Point:
    return replace(item, role=role, seed=seed, confirms=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    worker = bench(tmp_path_factory.mktemp("data"))
    return worker.data("data", worker.backbone("tiny/net").info.inputs)


def everything(data: Data) -> list[int]:
    return sorted(index for name in NOT_TEST for index in data.indices[name].tolist())


def test_a_repeated_run_draws_its_own_split_of_the_same_items(data: Data) -> None:
    drawn = {seed: items_of(data, as_role(point(), TrialRole.CONFIRM, seed), heads=False) for seed in (1, 2)}
    for one in drawn.values():
        assert everything(one) == everything(data)
        assert np.array_equal(one.indices["test"], data.indices["test"])
        sizes = {name: len(one.indices[name]) - len(data.indices[name]) for name in NOT_TEST}
        assert all(abs(size) <= 2 for size in sizes.values()), sizes
        counts = np.bincount(data.targets[one.indices["val"]], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(drawn[1].indices["val"], drawn[2].indices["val"])
    again = items_of(data, as_role(point(), TrialRole.CONFIRM, 1), heads=False)
    assert np.array_equal(again.indices["val"], drawn[1].indices["val"])


def test_the_search_keeps_the_studys_own_split(data: Data) -> None:
    assert items_of(data, point(seed=7), heads=False) is data


@pytest.mark.parametrize("heads", [False, True])
def test_a_refit_learns_from_all_but_the_test_items(data: Data, heads: bool) -> None:
    seen = items_of(data, as_role(point(), TrialRole.REFIT), heads=heads)
    learned = sorted({*seen.indices["train"].tolist(), *seen.indices["stop"].tolist()})
    assert learned == everything(data)
    assert len(seen.indices["stop"]) == (len(data.indices["stop"]) if heads else 0)
    assert not set(learned) & set(seen.indices["test"].tolist())


def made(tmp_path: Path, count: int, **changes: object) -> Data:
    from tiny_plugins import Colours, ColoursOptions

    from tlsearch.training.arrays import ArrayStore

    samples = replace(Colours().load(ColoursOptions(count=count)), **changes)
    inputs = registry.backbone("tiny/net", weights="random", image_size=None).info.inputs
    items = identified(samples, registry.task("classification"))
    return make_data(items, inputs, ArrayStore(tmp_path), seed=0)


def test_groups_stay_together_in_a_split_that_is_drawn_again(tmp_path: Path) -> None:
    groups = [f"patient {index // 6}" for index in range(120)]
    data = made(tmp_path, 120, groups=groups)
    for seed in range(1, 5):
        drawn = items_of(data, as_role(point(), TrialRole.CONFIRM, seed), heads=False)
        sides = {name: {groups[index] for index in drawn.indices[name]} for name in (*NOT_TEST, "test")}
        names = list(sides)
        for number, one in enumerate(names):
            for other in names[number + 1 :]:
                assert not sides[one] & sides[other]


def test_many_items_or_a_validation_split_of_their_own_are_not_split_again(tmp_path: Path) -> None:
    assert not reshuffles(made(tmp_path / "many", 1300))
    splits = ["val" if index % 5 == 0 else "train" for index in range(120)]
    assert not reshuffles(made(tmp_path / "given", 120, splits=splits))
    given = made(
        tmp_path / "test", 120, splits=["test" if index % 5 == 0 else "train" for index in range(120)]
    )
    assert reshuffles(given)


def test_points_that_see_other_items_are_told_apart(data: Data) -> None:
    points = [point(), point(seed=3), *(as_role(point(), TrialRole.CONFIRM, seed) for seed in (1, 2))]
    points.append(as_role(point(), TrialRole.REFIT))
    assert len({key_of(data, one) for one in points}) == 4
    whole = replace(data, units=None)
    assert len({key_of(whole, one) for one in points}) == 2


def test_a_worker_trains_each_role_on_its_items(tmp_path: Path) -> None:
    """Counted by what went through the trained part."""
    worker = bench(tmp_path, study(budget={"epochs": 2}))
    own = worker.data("data", worker.backbone("tiny/net").info.inputs)
    plain = point(augmentation="none", patience=0, number=0)
    refit = replace(as_role(plain, TrialRole.REFIT), number=1, epochs=3)
    told = results(worker, plain) + results(worker, refit)
    ended = outcomes(told)
    assert [outcome.state for outcome in ended.values()] == [TrialState.COMPLETE] * 2
    last = [result for result in told if result.number == 1][-1]
    assert (last.epoch, last.epochs) == (3, 3)
    assert ended[1].reason == "all 3 epochs"
    evaluated = 3 * len(own.indices["val"])
    assert ended[1].costs.suffix_images == 3 * len(everything(own)) + evaluated


def test_heads_of_all_roles_are_fitted_in_one_turn_each_on_its_items(tmp_path: Path) -> None:
    worker = bench(tmp_path)
    head = point("linear_probe")
    asked = [
        replace(head, number=0),
        *(replace(as_role(head, TrialRole.CONFIRM, seed), number=seed) for seed in (1, 2)),
        replace(as_role(head, TrialRole.REFIT), number=3),
    ]
    told = results(worker, *asked)
    assert [outcome.state for _, outcome in sorted(outcomes(told).items())] == [TrialState.COMPLETE] * 4
    losses = {result.number: result.metrics["log_loss"] for result in told}
    assert len(set(losses.values())) == 4
