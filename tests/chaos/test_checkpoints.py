"""A checkpoint that isn't what was written is passed over for the one before."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.chaos.conftest import Fault
from tests.chaos.invariants import check_acknowledged, check_all
from tests.chaos.scene import TRIALS, Scene


def stored(scene: Scene) -> dict[str, list[Path]]:
    """Checkpoints by trial, the newest last."""
    found: dict[str, list[Path]] = {}
    for path in sorted(scene.artifacts.glob("*/checkpoints/*/e*.safetensors")):
        found.setdefault(path.parent.name, []).append(path)
    return found


def truncate(path: Path, at: float) -> None:
    os.truncate(path, int(path.stat().st_size * at))


def flip(path: Path, at: float) -> None:
    """Turn one bit."""
    content = bytearray(path.read_bytes())
    content[int((len(content) - 1) * at)] ^= 1
    path.write_bytes(content)


DAMAGE = {"truncated": truncate, "flipped": flip}


@pytest.mark.fault("newest checkpoint {kind}", times=10)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(scene: Scene, fault: Fault, kind: str, repetition: int) -> None:
    study = scene.study(budget={"trials": TRIALS, "epochs": 6})
    driver = scene.start("run", study, CHAOS_PACE=0.5)
    scene.wait_for(lambda: any(len(paths) == 2 for paths in stored(scene).values()), driver)
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    check_acknowledged(scene)
    trial, (older, newest) = next((t, paths) for t, paths in stored(scene).items() if len(paths) == 2)
    at = fault.random.random()
    DAMAGE[kind](newest, at)
    fault.landed(f"{newest.name} of trial {trial} at {at:.0%}")
    scene.run("run", study, CHAOS_PACE=0.05)
    trials = check_all(scene, count=TRIALS)
    epoch = int(older.name[1:5])
    assert f"resumed after epoch {epoch}" in trials[int(trial)].reason, trials[int(trial)].reason
