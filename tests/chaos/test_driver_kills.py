"""The driver is killed: at any moment, and exactly around each step that makes something last."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.chaos.conftest import Fault
from tests.chaos.invariants import check_acknowledged, check_all
from tests.chaos.scene import EPOCHS, TRIALS, Scene

STEPS = {
    "half of a file written": ("write", 6),
    "before fsync": ("fsync", 6),
    "after fsync": ("fsynced", 6),
    "before rename": ("rename", 6),
    "after rename": ("renamed", 6),
    "before commit": ("commit", 30),
    "after commit": ("committed", 30),
    "before acknowledgement": ("acknowledge", 30),
    "after acknowledgement": ("acknowledged", 30),
}


@pytest.mark.fault("kill -9 the driver, then run again", times=30)
def test_a_driver_killed_at_any_moment_is_gone_on_with(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study()
    driver = scene.start("run", study)
    scene.wait_for(lambda: scene.acknowledged("start_trials"), driver)
    moment = fault.random.uniform(0.0, TRIALS / 2 * EPOCHS * 0.2)
    time.sleep(moment)
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL, "the kill came too late"
    known = len(scene.acknowledged())
    fault.landed(f"{moment:.2f} s after the first trial began, {known} acknowledgements")
    check_acknowledged(scene)
    scene.run("run", study)
    check_all(scene, count=TRIALS)


@pytest.mark.fault("kill -9 {step}", times=5)
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_a_step_never_leaves_a_row_without_its_file(
    scene: Scene, fault: Fault, step: str, repetition: int
) -> None:
    name, passes = STEPS[step]
    count = fault.random.randint(1, passes)
    study = scene.study()
    driver = scene.start("run", study, CHAOS_STOP=f"{name}:{count}", CHAOS_PACE=0.05)
    assert driver.wait() == -signal.SIGKILL, driver.said()
    (landed,) = scene.landings()
    assert (landed["step"], landed["pid"]) == (name, driver.pid)
    fault.landed(f"time {count}")
    check_acknowledged(scene)
    scene.run("run", study, CHAOS_PACE=0.05)
    check_all(scene, count=TRIALS)
