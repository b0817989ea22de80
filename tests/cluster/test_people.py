"""Two people's studies on one cluster and one database, and drivers that die there."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import RayCluster
from tests.conftest import Place
from tlsearch.database.store import Store
from tlsearch.records import StudyState, TrialRecord, TrialRole, TrialState

pytestmark = pytest.mark.long

PATIENCE = 300.0


@pytest.fixture
def here(place: Place, ray_cluster: RayCluster, postgres: str) -> Iterator[Place]:
    """A working directory whose commands know the cluster and its database."""
    shared = replace(place, env={**ray_cluster.env}, url=postgres)
    shared.env["TLSEARCH_ARTIFACTS"] = str(place.folder / "artifacts")
    yield shared
    shared.end_all()


def wait_until(condition: Callable[[], Any], told: Callable[[], str]) -> Any:
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, told()
        time.sleep(0.3)
    return found


def searched(store: Store, study: str) -> list[TrialRecord]:
    if store.find_study(study) is None:
        return []
    return store.trials(study, role=TrialRole.SEARCH)


def drivers(job: str) -> list[psutil.Process]:
    """The processes of a job on the head: its entry point first, then its driver."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = {"-m", "study.json"} <= set(process.cmdline())
            if ours and process.environ().get("TLSEARCH_JOB") == job:
                found.append(process)
    return sorted(found, key=lambda process: "cluster.entry" not in " ".join(process.cmdline()))


def most_at_once(trials: list[TrialRecord]) -> int:
    """How many of the trials ran at the same time."""
    ends = [(trial.finished, -1) for trial in trials if trial.finished is not None]
    steps = sorted([*((trial.started, 1) for trial in trials), *ends], key=lambda step: (step[0], step[1]))
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


@pytest.mark.timeout(1200)
def test_two_studies_share_a_cluster_and_outlive_their_drivers(here: Place, postgres: str) -> None:
    common = {
        "strategies": ["fine_tune"],
        "space": {"fine_tune.freeze_depth": {"low": 0.6}},
        "search": {"pruner": "none", "finalists": 1, "confirm_seeds": 0},
    }
    ann = here.study(study="ann", budget={"trials": 60, "epochs": 3}, resources={"concurrent": 1}, **common)
    bob = here.study(study="bob", budget={"trials": 6, "epochs": 3}, **common)
    jobs = {}
    for path, user in ((ann, "ann"), (bob, "bob")):
        jobs[user] = json.loads(here.run("submit", path, "--json", TLSEARCH_USER=user).stdout)["id"]

    def log(user: str) -> str:
        return here.run("logs", jobs[user]).stdout

    with Store.open(postgres, create=True) as store:
        # Bob's driver dies: his job starts it again.
        wait_until(lambda: len(searched(store, "bob")) >= 2, lambda: log("bob"))
        drivers(jobs["bob"])[-1].send_signal(signal.SIGKILL)
        wait_until(lambda: len(searched(store, "ann")) >= 2, lambda: log("ann"))
        # Nobody else may run it, and is told who does and since when.
        said = here.run("run", ann, code=2, TLSEARCH_USER="eve").stderr
        assert '"ann" is being run by "ann@' in said
        assert "since 20" in said
        # Ann's whole job dies: her study waits for her, with what it had.
        for process in drivers(jobs["ann"]):
            process.send_signal(signal.SIGKILL)
        wait_until(lambda: not drivers(jobs["ann"]), lambda: log("ann"))
        enough = len(searched(store, "ann")) + 1
        wait_until(lambda: "restart 1 of" in log("bob"), lambda: log("bob"))
        here.run("resume", "ann", "--trials", enough, "--wait", seconds=PATIENCE, TLSEARCH_USER="ann")
        wait_until(lambda: store.study("bob").state is StudyState.COMPLETE, lambda: log("bob"))
        for name, trials in (("ann", enough), ("bob", 6)):
            record, found = store.study(name), searched(store, name)
            assert (record.state, record.owner) == (StudyState.COMPLETE, name)
            assert [trial.number for trial in found] == list(range(trials))
            assert {trial.state for trial in found} == {TrialState.COMPLETE}
            assert all(first.params != second.params for first, second in pairwise(found))
            assert any(trial.attempt == 2 for trial in found), "the kill came too late"
        assert most_at_once([t for t in searched(store, "ann") if t.attempt == 1]) == 1
        assert store.check() == []
    listed = here.run("studies").stdout
    assert "ann" in listed
    best = json.loads(here.run("best", "bob", "--json").stdout)
    assert Path(best["model"]["uri"]).is_dir()


def test_a_cluster_that_cannot_run_a_study_says_which_node_and_what_to_do(here: Place) -> None:
    study = here.study(study="greedy", resources={"gpus_per_trial": 2})
    said = here.run("submit", study, "--wait", code=1).stderr
    assert "w1 has 1 CPUs and 0 GPUs; w2 has 1 CPUs and 0 GPUs" in said
    assert "gpus_per_trial" in said
    weights = here.folder / "gone.safetensors"
    study = here.study(study="lost", backbones=[{"name": "timm/resnet18", "weights": str(weights)}])
    said = here.run("submit", study, "--wait", code=1).stderr
    for node in ("head", "w1", "w2"):
        assert f"{node}: there are no weights {weights}" in said
    with contextlib.suppress(FileNotFoundError):
        assert not list((here.folder / "artifacts").iterdir())  # the nodes' notes are gone
