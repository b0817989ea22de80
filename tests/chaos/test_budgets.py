"""Time budgets hold: with a slow first epoch, across restarts, and with a model at the end."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.chaos.conftest import Fault
from tests.chaos.invariants import (
    check_acknowledged,
    check_best,
    check_ended,
    check_kept,
    check_left,
    summary,
)
from tests.chaos.scene import Scene
from tlsearch.records import TrialState

BUDGET = 12.0
LONGER = 24.0
"""Seconds of a search that is killed after a few of them and goes on."""
PAUSE = 14.0
SLACK = 5.0


def spans(scene: Scene) -> list[float]:
    """Seconds from the first to the last acknowledgement, of each driver."""
    times: dict[int, list[float]] = {}
    for told in scene.acknowledged():
        times.setdefault(told["pid"], []).append(told["time"])
    return [max(of) - min(of) for of in times.values()]


def check_end(scene: Scene) -> None:
    """Everything has ended, and there is a model."""
    trials = check_acknowledged(scene)
    check_ended(trials)
    check_best(scene, trials)
    check_left(scene)
    check_kept(scene, trials)


@pytest.mark.fault("first epoch far longer than the time budget", times=10)
def test_a_slow_first_epoch_is_cut_short(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study(
        strategies=["chaos_slow_start"], budget={"trials": 50, "epochs": 4, "minutes": BUDGET / 60}
    )
    scene.run("run", study, CHAOS_BATCH=fault.random.uniform(0.5, 1.5))  # 21 batches an epoch
    (took,) = spans(scene)
    fault.landed(f"{took:.1f} s, asked for {BUDGET:g}")
    assert took < BUDGET + SLACK
    check_end(scene)
    with scene.store() as store:
        trials = store.trials("tiny")
    assert any("time budget in epoch 1" in trial.reason for trial in trials), summary(trials)


@pytest.mark.fault("time budget across kill -9 and downtime", times=10)
def test_downtime_is_not_counted(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study(budget={"trials": 500, "epochs": 4, "minutes": LONGER / 60})
    driver = scene.start("run", study)
    scene.wait_for(lambda: scene.acknowledged("start_trials"), driver)
    moment = fault.random.uniform(3.0, 5.0)
    time.sleep(moment)
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    time.sleep(PAUSE)
    scene.run("run", study)
    first, second = spans(scene)
    fault.landed(f"{first:.1f} s and {second:.1f} s, asked for {LONGER:g}")
    assert first + second < LONGER + SLACK
    # Half is kept at most, for the fresh processes that look at the model; a trial that could not end in time
    # is not begun. Had the pause been counted, a search of three seconds would have been left.
    assert second > (LONGER - first) / 2 - 4
    check_end(scene)


@pytest.mark.fault("only what ended before the deadline", times=5)
def test_the_deadline_cancels_and_keeps_the_best(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study(
        budget={"trials": 50, "epochs": 20, "minutes": BUDGET / 60}, search={"confirm_seeds": 2}
    )
    scene.run("run", study)
    (took,) = spans(scene)
    fault.landed(f"{took:.1f} s, asked for {BUDGET:g}")
    assert took < BUDGET + SLACK
    check_end(scene)
    with scene.store() as store:
        states = {trial.state for trial in store.trials("tiny")}
    assert states <= {TrialState.COMPLETE, TrialState.CANCELLED}
