"""A search as a job of a real Ray cluster on this machine, behind a token."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import RayCluster
from tests.conftest import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """What a command needs to reach a head with two CPUs."""
    head = RayCluster.planned(tmp_path_factory.mktemp("cluster"), environment)
    try:
        head.start_head(cpus=2)
        yield {"RAY_AUTH_TOKEN_PATH": str(head.token), "TLSEARCH_ADDRESS": head.address}
    finally:
        head.close()


def test_a_study_runs_as_a_job(place, cluster):
    (place.folder / "data").symlink_to(place.images, target_is_directory=True)
    study = place.study(
        data={"path": "data"},
        strategies=["linear_probe", "fine_tune"],
        budget={"trials": 3},
        search={"confirm_seeds": 0},
    )
    # A relative path and database count from here, wherever the job runs.
    done = place.run("submit", study, "--db", "sqlite:///here.db", "--wait", "--json", **cluster)
    job = json.loads(done.stdout)
    assert (job["study"], job["status"]) == ("tiny", "SUCCEEDED")
    best = place.ask("best", "tiny", "--db", "sqlite:///here.db")
    assert best["backbone"] == "efficientnet_lite/lite0"
    weights = Path(best["model"]["uri"]) / "model.safetensors"
    assert weights.is_relative_to(place.folder)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == best["model"]["sha256"]
    listed = json.loads(place.run("jobs", "--json", **cluster).stdout)
    assert job["id"] in [other["id"] for other in listed]
    assert job["id"] in place.run("jobs", **cluster).stdout
    told = place.run("logs", job["id"], **cluster).stdout
    assert "search" in told
    assert "verify the winner" in told
    said = place.run("logs", f"{job['id']}x", code=2, **cluster).stderr
    assert f"{job['id']}x" in said
    assert "tlsearch cluster jobs" in said


@pytest.mark.long
def test_a_job_is_found_again_stopped_and_its_study_resumed(place, cluster):
    study = place.study(
        strategies=["fine_tune"],
        space={"fine_tune.freeze_depth": {"low": 0.8}},
        budget={"trials": 50, "epochs": 4},
        search={"pruner": "none", "confirm_seeds": 0},
    )
    job = json.loads(place.run("submit", study, "--json", **cluster).stdout)
    same = json.loads(place.run("submit", study, "--json", **cluster).stdout)
    assert (same["id"], same["new"]) == (job["id"], False)
    until = time.monotonic() + 550
    while not place.counts().get("COMPLETE"):
        assert time.monotonic() < until, place.run("logs", job["id"], **cluster).stdout
        time.sleep(0.5)
    stopped = json.loads(place.run("stop", job["id"], "--json", **cluster).stdout)
    assert stopped["status"] == "STOPPED"
    (told,) = place.ask("studies")
    assert (told["state"], told["counts"]["RUNNING"]) == ("INTERRUPTED", 0)
    # Stopped, not killed: the study can be gone on with here, at once.
    count = len([t for t in place.ask("trials", "tiny") if t["state"] == "COMPLETE"])
    place.run("run", study, "--trials", count + 1)
    trials = place.ask("trials", "tiny")
    assert {trial["state"] for trial in trials} == {"COMPLETE"}
    assert sorted(trial["number"] for trial in trials) == list(range(len(trials)))


def test_no_token_and_a_wrong_token_are_told_with_the_remedy(place, cluster, tmp_path):
    home = {"HOME": str(tmp_path), "TLSEARCH_ADDRESS": cluster["TLSEARCH_ADDRESS"]}
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    for env in (home, {**home, "RAY_AUTH_TOKEN_PATH": str(wrong)}):
        said = place.run("jobs", code=2, **env).stderr
        assert "token" in said
        assert "RAY_AUTH_TOKEN" in said
        assert wrong.read_text() not in said
    assert not os.listdir(place.folder)


def test_addresses_and_databases_that_cannot_work_are_refused(place, tmp_path):
    study = place.study()
    bare = {"HOME": str(tmp_path)}
    assert "http://" in place.run("submit", study, "--address", "cluster", code=2, **bare).stderr
    said = place.run("jobs", "--address", "http://10.1.2.3:8265", code=2, **bare).stderr
    assert "token" in said
    with_password = "postgresql://me:secret@db/x"
    said = place.run("submit", study, "--db", with_password, code=2, **bare).stderr
    assert "secret" not in said
    assert "PGPASSWORD" in said
    said = place.run("submit", study, "--address", "http://10.1.2.3:8265", code=2, **bare).stderr
    assert "PostgreSQL" in said
    nobody = f"http://127.0.0.1:{free_port()}"
    said = place.run("jobs", "--address", nobody, code=1, **bare).stderr
    assert nobody in said
    assert "ray start" in said
