"""Signals: the first stops cleanly, the second at once, and every stop can be resumed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.chaos.conftest import Fault
from tests.chaos.invariants import check_acknowledged, check_all, check_ended, check_left
from tests.chaos.scene import TRIALS, Scene

KINDS = {
    "SIGINT": (signal.SIGINT, 1, 130),
    "SIGTERM": (signal.SIGTERM, 1, 143),
    "double Ctrl-C": (signal.SIGINT, 2, 130),
}


@pytest.mark.fault("{kind}", times=20)
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_stops_cleanly(scene: Scene, fault: Fault, kind: str, repetition: int) -> None:
    number, times, code = KINDS[kind]
    study = scene.study(budget={"trials": TRIALS, "epochs": 40})
    driver = scene.start("run", study)
    scene.wait_for(lambda: scene.acknowledged("start_trials"), driver)
    moment = fault.random.uniform(0.0, 2.0)
    time.sleep(moment)
    began = time.monotonic()
    os.kill(driver.pid, number)
    if times == 2:
        time.sleep(fault.random.uniform(0.0, 0.3))
        os.kill(driver.pid, number)
    assert driver.wait(60) == code, driver.said()
    took = time.monotonic() - began
    fault.landed(f"{moment:.2f} s after the first trial began; it took {took:.1f} s")
    assert took < 10
    assert "Traceback" not in driver.said(), driver.said()
    trials = check_acknowledged(scene)
    check_ended(trials)
    assert {trial.state.value for trial in trials} <= {"COMPLETE", "CANCELLED"}
    assert any(trial.state.value == "CANCELLED" for trial in trials), "the signal came too late"
    check_left(scene)
    scene.run("run", study, CHAOS_PACE=0)
    check_all(scene, count=TRIALS)
