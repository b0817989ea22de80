"""A study on a head and two workers, PostgreSQL and an object store, while a node is taken away."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tlsearch.database.store import Store
from tlsearch.records import TrialRecord, TrialState
from tlsearch.training import checkpoints

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]  # nodes take long to start on a busy machine

TRIALS, EPOCHS = 3, 10


def study(images: Path) -> str:
    """As JSON, which is YAML."""
    return json.dumps(
        {
            "study": "tiny",
            "data": {"source": "folder", "path": str(images), "image_size": 64},
            "backbones": ["efficientnet_lite/lite0"],
            "strategies": ["fine_tune"],
            "space": {
                "fine_tune.freeze_depth": 0.5,
                "fine_tune.patience": 0,
                "fine_tune.augmentation": "none",
            },
            "budget": {"trials": TRIALS, "epochs": EPOCHS},
            "search": {"pruner": "none", "finalists": 1, "confirm_seeds": 0},
        }
    )


def wait_for(condition: Callable[[], object], driver: subprocess.Popen[str], seconds: float = 550) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)


def objects(s3) -> list[str]:
    """Keys of everything in the store, read by another client than ours."""
    with urllib.request.urlopen(f"{s3.endpoint}/studies?list-type=2", timeout=550) as answer:
        text = answer.read().decode()
    keys = [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]
    return [key for key in keys if not key.endswith("/")]  # a folder's mark holds nothing


@pytest.fixture
def folder(tmp_path: Path, images: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(study(images))
    return tmp_path


def test_a_node_is_taken_away_and_its_trial_goes_on_at_the_other(ray_cluster, postgres, s3, folder, images):
    env = {**ray_cluster.env, "TLSEARCH_DB": postgres, "TLSEARCH_ARTIFACTS": s3.url}
    command = [sys.executable, "-m", "tlsearch"]
    driver = subprocess.Popen(
        [*command, "run", "tiny.yaml", "--address", ray_cluster.gcs],
        cwd=folder,
        env={**env, "TLSEARCH_CACHE": str(folder / "cache")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    victim: list[TrialRecord] = []

    def in_the_midst() -> bool:
        """A trial of the first worker that has some epochs, and so a checkpoint, and many to go."""
        with Store.open(postgres) as store:
            for trial in store.running("tiny"):
                if trial.node == "w1" and 3 <= len(store.epochs("tiny", trial.number)) <= EPOCHS - 4:
                    victim[:] = [trial]
        return bool(victim)

    wait_for(lambda: any("checkpoints/" in key for key in objects(s3)), driver)
    wait_for(in_the_midst, driver)
    with Store.open(postgres) as store:
        before = store.epochs("tiny", victim[0].number)
    ray_cluster.kill("w1")
    print(f"w1 was killed in trial {victim[0].number} after epoch {before[-1].epoch}")
    output, errors = driver.communicate(timeout=550)
    assert driver.returncode == 0, f"{output}\n{errors}"
    assert "Traceback" not in errors

    with Store.open(postgres) as store:
        trials = store.trials("tiny")
        assert store.check() == []
        curves = {trial.number: store.epochs("tiny", trial.number) for trial in trials}
        model = store.model("tiny")
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert {trial.node for trial in trials} <= {"w1", "w2"}
    # The killed one: its next attempt, on the other node, from its checkpoint.
    killed = trials[victim[0].number]
    assert (killed.node, killed.attempt) == ("w2", 2)
    assert "resumed after epoch" in killed.reason
    resumed = int(killed.reason.rpartition(" ")[2])
    # At most the epoch after which it died is trained again, or shorter ones for three seconds and a write.
    write = 10.0  # to an object store, on a busy machine
    assert sum(epoch.seconds for epoch in before[resumed:-1]) < checkpoints.SECONDS + write
    assert [epoch.epoch for epoch in curves[killed.number]] == list(range(1, EPOCHS + 1))
    attempts = [epoch.attempt for epoch in curves[killed.number]]
    assert attempts == [1] * (resumed - 1) + [2] * (EPOCHS - resumed + 1)
    assert [e.value for e in before[: resumed - 1]] == [e.value for e in curves[killed.number][: resumed - 1]]
    assert all(trial.attempt == 1 for trial in trials if trial.number != killed.number and trial.node == "w2")

    # What is left in the store: the model, and the weights of the best few.
    assert model is not None
    assert model.uri.startswith(s3.url)
    left = objects(s3)
    assert not [key for key in left if "checkpoints" in key or key.rpartition("/")[2].startswith(".")]
    assert sum("/trials/" in key for key in left) == len([t for t in trials if t.artifact is not None])

    # From database and store alone, on a machine that has neither cluster nor cache.
    def ask(*arguments: str) -> str:
        elsewhere = {**env, "TLSEARCH_CACHE": str(folder / "elsewhere")}
        done = subprocess.run(
            [*command, *arguments], env=elsewhere, capture_output=True, text=True, timeout=550, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    best = json.loads(ask("best", "tiny", "--json"))
    assert best["value"] == max(trial.value for trial in trials)
    assert best["model"] == {**best["model"], "uri": model.uri, "sha256": model.sha256}
    key = f"{model.uri.removeprefix('s3://studies/')}/model.safetensors"
    with urllib.request.urlopen(f"{s3.endpoint}/studies/{key}", timeout=550) as answer:
        assert hashlib.sha256(answer.read()).hexdigest() == model.sha256
    picture = images / "frame" / "000.png"
    (said,) = json.loads(ask("predict", "tiny", str(picture), "--json"))
    assert said["label"] == "frame"
