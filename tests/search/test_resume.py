"""Searches that are killed, interrupted or run out of time, and what is there afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import termios
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

LONG = {
    "budget": {"trials": 8, "epochs": 8},
    "search": {"pruner": "none", "finalists": 2, "confirm_seeds": 0},
    "resources": {"concurrent": 2},  # so that some trial is always under way
}


def processes_of(place) -> list[psutil.Process]:
    """Whatever runs with this place's database in its environment: drivers, workers, Ray's own."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TLSEARCH_DB") == place.url and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_nothing_runs(place, *, within: float = 120) -> None:
    until = time.monotonic() + within
    while processes_of(place) and time.monotonic() < until:
        time.sleep(0.2)
    assert not processes_of(place)


def half_way(counts: dict[str, int]) -> bool:
    return counts["COMPLETE"] >= 2 and counts["RUNNING"] >= 1


def assert_whole(place, *, trials: int) -> list[dict]:
    """Exactly so many trials, none twice, all final with a reason; best is what brute force finds."""
    searched = [trial for trial in place.ask("trials", "tiny") if trial["role"] == "search"]
    assert sorted(trial["number"] for trial in searched) == list(range(trials))
    assert {trial["state"] for trial in searched} <= {"COMPLETE", "PRUNED"}
    assert all(trial["reason"] and trial["finished"] for trial in searched)
    points = {json.dumps([t["backbone"], t["strategy"], t["params"]], sort_keys=True) for t in searched}
    assert len(points) == trials
    best = place.ask("best", "tiny")
    complete = [trial for trial in searched if trial["state"] == "COMPLETE"]
    order = sorted(complete, key=lambda trial: -trial["value"])
    firsts = {trial["strategy"]: trial["value"] for trial in reversed(order)}
    assert best["value"] >= min(*firsts.values(), order[1]["value"]), "one of the finalists"
    weights = Path(best["model"]["uri"]) / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == best["model"]["sha256"]
    with place.store() as store:
        assert store.check() == []
    assert not list(place.artifacts.rglob(".*"))
    return searched


def test_a_killed_driver_is_gone_on_with(place):
    study = place.study(**LONG)
    first = place.start("run", study)
    place.wait_for(half_way, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    left = place.ask("trials", "tiny")
    assert any(trial["state"] == "RUNNING" for trial in left), "the kill came too late"
    assert len(left) < 8
    done = {trial["number"]: trial for trial in left if trial["state"] == "COMPLETE"}
    again = place.here("run", study)  # at once: nobody waits for a dead driver's lease
    searched = assert_whole(place, trials=8)
    for trial in searched:
        if trial["number"] in done:  # finished trials never run again
            assert (trial["attempt"], trial["started"]) == (1, done[trial["number"]]["started"])
        elif trial["number"] < len(left):
            assert trial["attempt"] == 2
    assert f"search {len(done)}/8" in again.stderr
    assert_nothing_runs(place, within=550)  # a worker that lost its driver takes a while to see it


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_stops_cleanly_and_the_stop_can_be_resumed(place, number, code):
    """SIGINT as Ctrl-C in a terminal sends it, SIGTERM as systemd, Docker and Slurm do."""
    # Heads would be fitted by the dozen, and a dozen that is under way is seen through.
    study = place.study(**{**LONG, "budget": {"trials": 300, "epochs": 10}, "strategies": ["fine_tune"]})
    driver = place.start("run", study)
    place.wait_for(half_way, driver)
    said = place.refused("run", study)  # while it runs nobody else may
    assert f":{driver.pid}:" in said
    assert "tiny" in said
    place.wait_for(lambda counts: counts["RUNNING"] >= 1, driver)
    began = time.monotonic()
    os.killpg(driver.pid, number)
    _, errors = driver.communicate(timeout=550)
    took = time.monotonic() - began
    assert "Traceback" not in errors, errors
    assert_nothing_runs(place)
    assert driver.returncode == code
    assert "same command again to continue" in errors
    assert took < 25
    trials = place.ask("trials", "tiny")
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "CANCELLED"}
    assert all(trial["reason"] for trial in trials)
    cancelled = [trial for trial in trials if trial["state"] == "CANCELLED"]
    assert cancelled, "the signal came in the moment between two trials"
    assert number.name in str([trial["reason"] for trial in cancelled])
    (told,) = place.ask("studies")
    assert told["state"] == "INTERRUPTED"
    place.here("run", study, "--trials", len(trials) + 1)
    assert_whole(place, trials=len(trials) + 1)


def test_a_closed_terminal_stops_a_search_cleanly(place):
    """The kernel sends SIGHUP to whoever leads the terminal's session, and refuses all further output."""
    study = place.study(**{**LONG, "budget": {"trials": 300, "epochs": 10}, "strategies": ["fine_tune"]})
    terminal, end = os.openpty()
    driver = subprocess.Popen(
        [place.python, "-m", "tlsearch", "run", str(study)],
        cwd=place.folder,
        env=place.env,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    place.begun.append(driver)
    os.close(end)
    os.set_blocking(terminal, False)

    def seen(counts: dict[str, int]) -> bool:
        with contextlib.suppress(BlockingIOError):
            while os.read(terminal, 65536):
                pass
        return counts["RUNNING"] >= 1

    place.wait_for(seen, driver)
    os.close(terminal)
    assert driver.wait(60) == 128 + signal.SIGHUP
    assert_nothing_runs(place)
    trials = place.ask("trials", "tiny")
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "CANCELLED"}
    (told,) = place.ask("studies")
    assert told["state"] == "INTERRUPTED"


def test_minutes_bound_a_search_and_what_is_in_flight(place):
    minutes = 0.3
    study = place.study(
        budget={"trials": 500, "minutes": minutes, "epochs": 2000}, search={"pruner": "none", "finalists": 1}
    )
    place.here("run", study)
    trials = place.ask("trials", "tiny")
    times = [datetime.fromisoformat(trial[key]) for trial in trials for key in ("started", "finished")]
    assert (max(times) - min(times)).total_seconds() < minutes * 60 + 5
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "CANCELLED", "PRUNED"}
    assert len(trials) < 500
    assert place.ask("best", "tiny")["model"]["sha256"]
    assert_nothing_runs(place)
    # The time is spent: nothing is left to do, and nothing is done.
    model = place.ask("best", "tiny")
    again = place.here("run", study)
    assert "start workers" not in again.stderr
    assert place.ask("trials", "tiny") == trials
    assert place.ask("best", "tiny") == model


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_its_trial_run_again(place):
    study = place.study(**{**LONG, "strategies": ["fine_tune"], "budget": {"trials": 4, "epochs": 8}})
    driver = place.start("run", study)
    place.wait_for(lambda counts: counts["RUNNING"] >= 1, driver)
    workers: list[psutil.Process] = []
    until = time.monotonic() + 550
    while not workers and time.monotonic() < until:
        workers = [p for p in processes_of(place) if "Trainable.train" in " ".join(p.cmdline())]
        time.sleep(0.1)
    place.wait_for(lambda counts: counts["RUNNING"] >= 1, driver)
    workers[0].send_signal(signal.SIGKILL)
    _, errors = driver.communicate(timeout=550)
    assert driver.returncode == 0, errors
    assert "Traceback" not in errors
    searched = assert_whole(place, trials=4)
    for trial in searched:
        epochs = place.ask("show", "tiny", trial["number"])["epochs"]
        numbers = [epoch["epoch"] for epoch in epochs]
        assert numbers == sorted(set(numbers))
    assert_nothing_runs(place)
