"""``trials --watch``, in a pipe and in a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from tlsearch.database.store import Store
from tlsearch.records import DatasetRecord, EpochResult, Outcome, Point, StudyState, TrialState


@pytest.fixture
def running(tmp_path):
    """A study that somebody runs, with one trial that has ended and one that hasn't."""
    url = f"sqlite:///{tmp_path}/studies.db"
    with Store.open(url, create=True) as store:
        store.create_study(
            name="s",
            spec={},
            metric="accuracy",
            direction="maximize",
            dataset=DatasetRecord("f", "folder", ("a", "b"), {}),
            plugins=[],
            versions={},
        )
        lease = store.acquire("s", owner="somebody", seconds=600)
        store.start_trials(lease, [Point(n, "a/b", "fine_tune", {}, 0) for n in range(2)])
        end(store, lease, 0, 0.5)
        yield url, store, lease


def end(store, lease, number, value):
    outcome = Outcome(TrialState.COMPLETE, "all epochs", value)
    store.record(lease, [EpochResult(number, 1, 1, 1, value, outcome=outcome)])


def command(url):
    return [sys.executable, "-m", "tlsearch", "trials", "s", "--watch", "--db", url]


def test_in_a_pipe_each_trial_is_a_line_once_it_has_ended(running):
    url, store, lease = running
    with subprocess.Popen(command(url), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("trial 0  state COMPLETE  strategy fine_tune")
        end(store, lease, 1, 0.75)
        assert "trial 1" in process.stdout.readline()
        store.release(lease, state=StudyState.COMPLETE)
        assert process.stdout.read() == ""
        assert process.wait(timeout=550) == 0


def test_in_a_terminal_the_table_changes_until_the_study_ends(running):
    url, store, lease = running
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen(command(url), stdout=theirs, stdin=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen: list[str] = []

    def read() -> None:
        while True:
            try:
                seen.append(os.read(ours, 65536).decode(errors="replace"))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_for(seen, r"s running: .*1 running")
        end(store, lease, 1, 0.7531)
        wait_for(seen, r"0\.7531")
        store.release(lease, state=StudyState.COMPLETE)
        assert process.wait(timeout=550) == 0
        wait_for(seen, r"s complete: .*2 complete")
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)


def wait_for(seen: list[str], pattern: str, seconds: float = 550) -> None:
    import time

    until = time.monotonic() + seconds
    while not re.search(pattern, "".join(seen)):
        assert time.monotonic() < until, "".join(seen)[-2000:]
        time.sleep(0.05)


def test_goes_with_no_machine_format(running):
    url, *_ = running
    done = subprocess.run([*command(url), "--json"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--watch" in done.stderr
