"""Very many short trials: memory, files, handles and the time of a trial stay as they are."""

from __future__ import annotations

import itertools
import os
import statistics
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.chaos.conftest import SHARE, Fault
from tests.chaos.invariants import check_all
from tests.chaos.scene import Scene

TRIALS = int(os.environ.get("TLSEARCH_CHAOS_SOAK", "2000" if SHARE >= 1 else "60"))
GROWTH = 24 * 2**20
"""Bytes by which a process may grow after its first fifth; a leak of 100 kB a trial would show."""


@dataclass(frozen=True)
class Sample:
    """How large a process is after so many trials."""

    trials: int
    memory: int
    handles: int
    threads: int


def watch(scene: Scene, driver: Any, family: Any) -> dict[int, list[Sample]]:
    """Samples of every process of a search by its id, until the search has ended."""
    samples: dict[int, list[Sample]] = {}
    known = -1
    while driver.poll() is None:
        done = sum(1 for told in scene.acknowledged("record") if told["state"])
        if done == known:
            psutil.wait_procs([], timeout=0.05)
            continue
        known = done
        for process in family():
            try:
                with process.oneshot():
                    sample = Sample(done, process.memory_info().rss, process.num_fds(), process.num_threads())
            except psutil.Error:
                continue
            samples.setdefault(process.pid, []).append(sample)
    return samples


def check_flat(samples: list[Sample], what: str) -> str:
    """A process hasn't grown since it was warm."""
    warm = [sample for sample in samples if sample.trials >= TRIALS / 5]
    early, late = warm[: len(warm) // 4], warm[-len(warm) // 4 :]
    memory = [statistics.median(sample.memory for sample in part) for part in (early, late)]
    handles = [statistics.median(sample.handles for sample in part) for part in (early, late)]
    told = (
        f"{what}: {memory[0] / 2**20:.0f} to {memory[1] / 2**20:.0f} MB, {handles[0]} to {handles[1]} handles"
    )
    assert memory[1] - memory[0] < GROWTH, told
    assert handles[1] - handles[0] <= 3, told
    return told


def check_pace(scene: Scene) -> str:
    """A trial takes no longer at the end than at the beginning."""
    times = [told["time"] for told in scene.acknowledged("record") if told["state"]]
    steps = [after - before for before, after in itertools.pairwise(times)]
    fifth = len(steps) // 5
    early, late = statistics.median(steps[fifth : 2 * fifth]), statistics.median(steps[-fifth:])
    told = f"{early * 1000:.0f} to {late * 1000:.0f} ms a trial"
    # Other programs on the machine double times easily; what grows with the trials would do more.
    assert late < 3 * early + 0.05, told
    return told


QUICK = {"budget": {"trials": TRIALS, "epochs": 1}, "search": {"keep": 5}}


@pytest.mark.timeout(7200)
@pytest.mark.fault("soak: short trials, one process", times=1)
def test_a_long_search_leaks_nothing(scene: Scene, fault: Fault) -> None:
    driver = scene.start("run", scene.study(**QUICK), CHAOS_PACE=0)
    of = psutil.Process(driver.pid)
    samples = watch(scene, driver, lambda: [of])
    assert driver.wait() == 0, driver.said()
    told = [check_flat(samples[driver.pid], "driver"), check_pace(scene)]
    fault.landed("; ".join(told), TRIALS)
    trials = check_all(scene, count=TRIALS)
    assert len([trial for trial in trials if trial.artifact is not None]) == 5


@pytest.mark.timeout(14400)
@pytest.mark.skipif(SHARE < 1, reason="make chaos runs it: thousands of trials through Ray take long")
@pytest.mark.fault("soak: short trials through Ray", times=1)
def test_a_long_search_through_ray_leaks_nothing(scene: Scene, fault: Fault) -> None:
    driver = scene.start_on_ray("run", scene.study(**QUICK), CHAOS_PACE=0)
    of = psutil.Process(driver.pid)
    samples = watch(scene, driver, lambda: [of, *scene.workers()])
    assert driver.wait(60) == 0, driver.said()  # type: ignore[attr-defined]
    long = {pid: seen for pid, seen in samples.items() if seen[-1].trials - seen[0].trials > TRIALS / 2}
    assert len(long) >= 2, "neither driver nor worker lived long enough"
    told = [check_flat(seen, "driver" if pid == driver.pid else "worker") for pid, seen in long.items()]
    told.append(check_pace(scene))
    fault.landed("; ".join(told), TRIALS)
    check_all(scene, count=TRIALS)
