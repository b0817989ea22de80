"""The disk is full: a real file system of a few hundred kilobytes, or where we may not mount one, a limit."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import Fault
from tests.chaos.invariants import check_acknowledged, check_all, check_best, check_ended, check_left
from tests.chaos.scene import TRIALS, Scene


@pytest.fixture
def small(scene: Scene) -> Iterator[Path]:
    """A file system that is soon full, where the scene's weights go."""
    scene.artifacts.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(scene.artifacts)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.decode().strip()}")
    yield scene.artifacts
    subprocess.run(["umount", str(scene.artifacts)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all room but so many bytes."""
    free = os.statvfs(folder)
    ballast = folder / "ballast"
    try:
        ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - leave))
    except OSError as error:  # somebody else wrote meanwhile: it is full all the same
        if error.errno != errno.ENOSPC:
            raise
    return ballast


@pytest.mark.fault("disk of the weights full", times=10)
def test_a_full_disk_fails_trials_and_leaves_the_best(
    scene: Scene, small: Path, fault: Fault, repetition: int
) -> None:
    study = scene.study()
    driver = scene.start("run", study)
    scene.wait_for(lambda: scene.counts().get("COMPLETE", 0) >= 2, driver)
    leave = fault.random.choice([0, 4096, 8192, 12288])
    ballast = fill(small, leave)
    code = driver.wait()
    assert "Traceback" not in driver.said(), driver.said()
    trials = check_acknowledged(scene)
    check_ended(trials)
    failed = [trial for trial in trials if trial.state.value == "FAILED"]
    assert failed, "the disk wasn't full for anybody"
    fault.landed(f"{leave} bytes were left; {len(failed)} trials failed; exit code {code}")
    assert all("disk" in trial.reason.lower() or "space" in trial.reason for trial in failed), failed
    check_best(scene, trials, model=False)
    check_left(scene)
    ballast.unlink()
    scene.run("run", study, "--trials", TRIALS + 2)
    check_all(scene, count=TRIALS + 2)


@pytest.mark.fault("disk of the database full", times=10)
def test_a_full_disk_under_the_database_is_named(
    scene: Scene, small: Path, fault: Fault, repetition: int
) -> None:
    scene.url = f"sqlite:///{small / 'studies.db'}"
    study = scene.study()
    driver = scene.start("run", study, TLSEARCH_ARTIFACTS=scene.folder / "elsewhere")
    scene.wait_for(lambda: scene.counts().get("COMPLETE", 0) >= 2, driver)
    ballast = fill(small, 0)
    code = driver.wait()
    fault.landed(f"exit code {code}")
    assert code in (1, 2), driver.said()
    assert "is full" in driver.said(), driver.said()
    assert "Traceback" not in driver.said(), driver.said()
    check_acknowledged(scene)
    ballast.unlink()
    scene.run("run", study, TLSEARCH_ARTIFACTS=scene.folder / "elsewhere")
    trials = check_acknowledged(scene)
    check_ended(trials)
    check_best(scene, trials)
    check_left(scene)
