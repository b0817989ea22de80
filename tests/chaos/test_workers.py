"""Faults of workers, which Ray runs in processes of their own: killed, stopped, deaf to the stop."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil
import pytest

from tests.chaos.conftest import SHARE, Fault
from tests.chaos.invariants import (
    check_acknowledged,
    check_all,
    check_best,
    check_ended,
    check_kept,
    check_left,
    check_numbers,
    check_resumed,
    summary,
)
from tests.chaos.scene import TRIALS, Scene
from tlsearch.records import TrialState

pytestmark = pytest.mark.slow
in_full = pytest.mark.skipif(SHARE < 1, reason="a minute through Ray: make chaos runs it")


def training(scene: Scene) -> list[psutil.Process]:
    """Workers, once the trials that they are on have told of an epoch."""
    return scene.workers() if scene.acknowledged("record") else []


@pytest.mark.fault("kill -9 a trial worker", times=50, at_once=5)
def test_killed_workers_are_replaced(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study(budget={"trials": TRIALS, "epochs": 8})
    driver = scene.start_on_ray("run", study)
    for kill in range(5):
        known = len(scene.acknowledged("record"))
        scene.wait_for(lambda known=known: len(scene.acknowledged("record")) > known, driver, 240)
        time.sleep(fault.random.uniform(0.0, 0.6))
        alive = training(scene)
        if driver.poll() is not None or not alive:
            break
        victim = fault.random.choice(alive)
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)
        fault.landed(f"kill {kill + 1}: {victim.pid} after {known} records")
    assert driver.wait(300) == 0, driver.said()  # type: ignore[attr-defined]
    trials = check_acknowledged(scene)
    check_ended(trials)
    check_numbers(scene, trials, count=TRIALS)
    check_best(scene, trials)
    check_resumed(scene)
    check_left(scene)
    check_kept(scene, trials)
    print(summary(trials))
    for trial in trials:  # one that was hit three times is given up, with the reason
        assert trial.state is TrialState.COMPLETE or "worker process died" in trial.reason


@in_full
@pytest.mark.fault("worker stopped for twice the lease, then continued", times=10, at_once=5)
def test_a_worker_that_slept_is_heard_again(scene: Scene, fault: Fault, repetition: int) -> None:
    lease = 1.5
    study = scene.study(budget={"trials": TRIALS, "epochs": 8})
    driver = scene.start_on_ray("run", study, CHAOS_LEASE=lease)
    for _ in range(5):
        known = len(scene.acknowledged("record"))
        scene.wait_for(lambda known=known: len(scene.acknowledged("record")) > known, driver, 240)
        alive = training(scene)
        if driver.poll() is not None or not alive:
            break
        sleeper = fault.random.choice(alive)
        sleeper.suspend()
        time.sleep(2 * lease)
        assert sleeper.status() == psutil.STATUS_STOPPED
        sleeper.resume()
        fault.landed(f"{sleeper.pid} after {known} records")
    assert driver.wait(300) == 0, driver.said()  # type: ignore[attr-defined]
    check_all(scene, count=TRIALS)


def search_seconds(scene: Scene) -> float:
    with scene.store() as store:
        return store.study("tiny").seconds


BUDGET = 30.0
"""Seconds. Ten would do on an idle machine; where others work, Ray takes longer than that to start."""


@in_full
@pytest.mark.fault("a trial that ignores stop, at the end of its budget", times=10)
def test_a_deaf_trial_ends_with_the_budget(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study(strategies=["chaos_deaf"], budget={"trials": 50, "epochs": 4, "minutes": BUDGET / 60})
    driver = scene.start_on_ray("run", study, CHAOS_DEAF=600)
    assert driver.wait(200) in (0, 1), driver.said()  # type: ignore[attr-defined]
    took = search_seconds(scene)
    fault.landed(f"{took:.1f} s of search, asked for {BUDGET:g}")
    trials = check_acknowledged(scene)
    check_ended(trials)
    assert any(trial.state is TrialState.CANCELLED for trial in trials), summary(trials)
    assert max(t.finished.timestamp() for t in trials if t.finished) < _began(scene) + BUDGET + 5
    assert took < BUDGET + 5
    check_best(scene, trials)
    check_left(scene)


def _began(scene: Scene) -> float:
    with scene.store() as store:
        return store.study("tiny").created.timestamp()


@pytest.mark.long
@pytest.mark.fault("{kind} to a search whose workers ignore it, through Ray", times=6)
@pytest.mark.parametrize("kind", ["SIGINT", pytest.param("SIGTERM", marks=in_full)])
def test_a_signal_stops_deaf_workers_too(scene: Scene, fault: Fault, kind: str, repetition: int) -> None:
    study = scene.study(strategies=["chaos_deaf"])
    driver = scene.start_on_ray("run", study, CHAOS_DEAF=600)
    scene.wait_for(lambda: len(scene.acknowledged("record")) >= 3, driver, 240)
    time.sleep(fault.random.uniform(0.5, 2.0))
    began = time.monotonic()
    os.killpg(driver.pid, getattr(signal, kind))
    code = driver.wait(60)
    took = time.monotonic() - began
    fault.landed(f"ended after {took:.1f} s")
    assert code == 128 + getattr(signal, kind), driver.said()  # type: ignore[attr-defined]
    trials = check_acknowledged(scene)
    check_ended(trials)
    cancelled: list[Any] = [t for t in trials if t.state is TrialState.CANCELLED]
    assert cancelled
    check_left(scene)
    assert took < 15
