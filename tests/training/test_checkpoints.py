"""Trials that are cut off and go on elsewhere: what they come to, and what is trained again."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bench import bench, outcomes, point, results, study

from tlsearch.records import EpochResult, Outcome, Point, TrialState
from tlsearch.spec import StudySpec
from tlsearch.training import checkpoints
from tlsearch.training.checkpoints import Checkpoints
from tlsearch.training.resume import FitState

SPEC = study(
    budget={"epochs": 5}, source_data={"source": "tiny_colours", "classes": 4, "count": 150, "seed": 5}
)
KINDS = [
    point("fine_tune", freeze_depth=0.34, dropout=0.3, augmentation="light"),
    point("fine_tune", freeze_depth=0.0, optimizer="sgd", learning_rate=0.05),
    point("fine_tune", augmentation="mixup"),
    point("joint_training", source_share=0.5),
    point("joint_training", source_share=0.5, augmentation="mixup"),
    point("tiny_unfreezing"),
    point("tiny_resting"),
]


def cut_off(folder: Path, item: Point, *, after: int, spec: StudySpec = SPEC) -> list[EpochResult]:
    """Train so many epochs, begin the next one, and forget the worker, as if it had been killed."""
    turns = bench(folder, spec).run([item])
    told = [result for _ in range(after) for result in next(turns)]
    state = next(turns)  # the checkpoint of the last epoch is written when the next one is asked for
    assert len(state) == 1
    return told


def stored(folder: Path, number: int = 0) -> list[Path]:
    return sorted((folder / "artifacts" / checkpoints.FOLDER / f"{number:06d}").iterdir())


def curve(told: list[EpochResult]) -> dict[int, tuple[Any, ...]]:
    """What a learning curve says, without how long it took."""
    return {r.epoch: (r.value, dict(r.metrics), r.outcome and r.outcome.metrics) for r in told}


def weights(told: list[EpochResult]) -> bytes:
    outcome = outcomes(told)[0]
    assert outcome.state is TrialState.COMPLETE, outcome.reason
    assert outcome.artifact is not None
    return Path(outcome.artifact.uri).read_bytes()


def tell(item: object) -> str:
    return f"{item.strategy}-{item.params['augmentation']}" if isinstance(item, Point) else str(item)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny epochs end sooner than a disk writes: here training waits for each write."""
    offer = Checkpoints.offer

    def offered(kept: Checkpoints, snapshot: Any) -> None:
        offer(kept, snapshot)
        if kept._writing is not None:
            kept._writing.result()

    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    monkeypatch.setattr(Checkpoints, "offer", offered)


@pytest.mark.parametrize(
    ("item", "after"),
    [*((kind, 2) for kind in KINDS), (KINDS[0], 1), (KINDS[-1], 3), (KINDS[-1], 1)],
    ids=tell,
)
@pytest.mark.usefixtures("every_epoch")
def test_a_trial_that_was_cut_off_comes_to_the_same_to_the_last_bit(tmp_path, item, after):
    undisturbed = results(bench(tmp_path / "a", SPEC), item)
    before = cut_off(tmp_path / "b", item, after=after)
    torch.manual_seed(99)  # another process has drawn other random numbers
    again = results(bench(tmp_path / "b", SPEC), replace(item, attempt=2))
    # The last epoch that was trained is told again and isn't trained again.
    assert [result.epoch for result in again] == list(range(after, len(undisturbed) + 1))
    assert {result.attempt for result in again} == {2}
    assert curve([*before, *again]) == curve(undisturbed)
    assert weights(again) == weights(undisturbed)
    outcome, whole = outcomes(again)[0], outcomes(undisturbed)[0]
    assert outcome.reason == f"{whole.reason}; resumed after epoch {after}"
    assert outcome.costs.suffix_images == whole.costs.suffix_images
    assert outcome.costs.trainable_parameters == whole.costs.trainable_parameters


@pytest.mark.usefixtures("every_epoch", "few_stop_items")
def test_early_stopping_counts_on(tmp_path):
    spec = study(budget={"epochs": 20})
    item = point(learning_rate=0.03, patience=2, freeze_depth=0.0)
    undisturbed = results(bench(tmp_path / "a", spec), item)
    assert 3 < len(undisturbed) < 20, "it must stop early for this test to mean anything"
    cut_off(tmp_path / "b", item, after=len(undisturbed) - 2, spec=spec)
    again = results(bench(tmp_path / "b", spec), replace(item, attempt=2))
    assert again[-1].epoch == undisturbed[-1].epoch
    assert weights(again) == weights(undisturbed)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "deleted"])
@pytest.mark.usefixtures("every_epoch")
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(tmp_path, damage):
    item = point()
    undisturbed = results(bench(tmp_path / "a", SPEC), item)
    cut_off(tmp_path / "b", item, after=3)
    earlier, last = stored(tmp_path / "b")
    content = last.read_bytes()
    if damage == "deleted":
        last.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        last.write_bytes({"truncated": content[:middle], "flipped": flipped, "emptied": b""}[damage])
    assert (earlier.name[:5], last.name[:5]) == ("e0002", "e0003")
    again = results(bench(tmp_path / "b", SPEC), replace(item, attempt=2))
    assert again[0].epoch == 2
    assert weights(again) == weights(undisturbed)


@pytest.mark.usefixtures("every_epoch")
def test_without_a_whole_checkpoint_it_begins_at_the_beginning(tmp_path):
    item = point()
    undisturbed = results(bench(tmp_path / "a", SPEC), item)
    cut_off(tmp_path / "b", item, after=3)
    for file in stored(tmp_path / "b"):
        file.write_bytes(file.read_bytes()[:-1])
    again = results(bench(tmp_path / "b", SPEC), replace(item, attempt=2))
    assert [result.epoch for result in again] == [1, 2, 3, 4, 5]
    assert weights(again) == weights(undisturbed)
    assert "resumed" not in outcomes(again)[0].reason


@pytest.mark.usefixtures("every_epoch")
def test_a_trial_may_be_cut_off_again_and_again(tmp_path):
    item = point()
    undisturbed = results(bench(tmp_path / "a", SPEC), item)
    cut_off(tmp_path / "b", item, after=1)
    cut_off(tmp_path / "b", replace(item, attempt=2), after=2)  # tells epoch 1 again, then trains 2 and 3
    assert [file.name[:9] for file in stored(tmp_path / "b")] == ["e0001-a01", "e0002-a02"]
    again = results(bench(tmp_path / "b", SPEC), replace(item, attempt=3))
    assert [result.epoch for result in again] == [2, 3, 4, 5]
    assert weights(again) == weights(undisturbed)


@pytest.mark.usefixtures("every_epoch")
def test_a_checkpoint_of_another_trial_is_not_gone_on_from(tmp_path):
    cut_off(tmp_path, point(learning_rate=0.001), after=2)
    other = results(bench(tmp_path, SPEC), point(learning_rate=0.002, attempt=2))
    assert [result.epoch for result in other] == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("every_epoch")
def test_two_checkpoints_are_kept_and_they_go_with_their_trial(tmp_path):
    told = results(bench(tmp_path, SPEC), point())
    assert outcomes(told)[0].state is TrialState.COMPLETE
    assert [file.name[:5] for file in stored(tmp_path)] == ["e0003", "e0004"]  # the last epoch needs none
    checkpoints.drop(str(tmp_path / "artifacts"), 0)
    checkpoints.drop(str(tmp_path / "artifacts"), 1)  # there is none: no matter
    assert not (tmp_path / "artifacts" / checkpoints.FOLDER / "000000").exists()


def test_a_trial_that_is_stopped_for_its_result_writes_none(tmp_path):
    turns = bench(tmp_path, SPEC).run([point()])
    next(turns)
    turns.close()
    assert not (tmp_path / "artifacts" / checkpoints.FOLDER).exists()


def test_writing_is_bounded_by_a_share_of_training(tmp_path, monkeypatch):
    clock, takes = [100.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    put = checkpoints.artifacts.put

    def slow(*arguments: Any, **options: Any) -> Any:
        clock[0] += takes[0]
        return put(*arguments, **options)

    monkeypatch.setattr(checkpoints.artifacts, "put", slow)
    kept = Checkpoints(str(tmp_path), 0, 1, identity={})

    def train(epoch: int, *, seconds: float, write: float) -> bool:
        """Whether a checkpoint was written after an epoch of so many seconds; writing takes ``write``."""
        clock[0] += seconds
        takes[0] = write
        asked: list[int] = []

        def snapshot() -> FitState:
            asked.append(epoch)
            return FitState(epoch, {"model|x": torch.zeros(1)}, {})

        kept.offer(snapshot)
        if kept._writing is not None:
            kept._writing.result()
        return bool(asked)

    # Cheap writes: after every epoch, however short.
    assert [train(e, seconds=0.2, write=0.05) for e in range(1, 5)] == [True] * 4
    # A dear one: the next waits until it is half of what was trained since ...
    assert train(5, seconds=0.2, write=0.25)
    assert [train(e, seconds=0.2, write=0.25) for e in range(6, 10)] == [False, False, True, False]
    # ... or three seconds have gone by: longer epochs are never trained twice.
    assert train(10, seconds=0.4, write=9.0)
    assert [train(e, seconds=3.1, write=9.0) for e in range(11, 14)] == [True] * 3
    kept.close()


def test_a_write_goes_on_beside_training_and_is_waited_for_at_the_end(tmp_path, monkeypatch):
    going = threading.Event()
    put = checkpoints.artifacts.put

    def held(*arguments: Any, **options: Any) -> Any:
        assert going.wait(60)
        return put(*arguments, **options)

    monkeypatch.setattr(checkpoints.artifacts, "put", held)
    kept = Checkpoints(str(tmp_path), 0, 1, identity={})
    weights = torch.zeros(1)
    kept.offer(lambda: FitState(1, {"model|x": weights}, {}))
    weights += 1  # training goes on, and the next epoch ends before the write does
    kept.offer(lambda: FitState(2, {"model|x": weights}, {}))
    going.set()
    kept.close()
    state = Checkpoints(str(tmp_path), 0, 2, identity={}).latest()
    assert state is not None
    assert state.epoch == 1
    assert state.tensors["model|x"].item() == 0


def test_a_place_that_cannot_be_written_to_costs_no_trial(tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / checkpoints.FOLDER).write_text("in the way")
    outcome: Outcome = outcomes(results(bench(tmp_path, SPEC), point()))[0]
    assert outcome.state is TrialState.COMPLETE
    assert math.isfinite(outcome.value or math.nan)
