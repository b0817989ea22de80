"""The best model is the model of its score: retention, and a bundle that tells another score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.chaos.conftest import Fault
from tests.chaos.invariants import check_all
from tests.chaos.scene import TRIALS, Scene
from tlsearch import registry
from tlsearch.files import sha256_of
from tlsearch.search.finalists import ranked

LOG_LOSS = registry.task("classification").metric("log_loss")


@pytest.mark.fault("retention: two of ten weights stay", times=5)
def test_only_the_best_weights_stay(scene: Scene, fault: Fault, repetition: int) -> None:
    kept = {"keep": 2, "finalists": 2, "confirm_seeds": 0}
    scene.run("run", scene.study(budget={"trials": 10}, search=kept, seed=repetition), CHAOS_PACE=0)
    trials = check_all(scene, count=10)
    done = sorted((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0, reverse=True)
    held = [trial for trial in trials if trial.artifact is not None]
    fault.landed(f"kept {[trial.number for trial in held]}")
    assert len(held) == 2
    assert min(trial.value or 0.0 for trial in held) >= (done[1].value or 0.0)
    assert len(list(scene.artifacts.glob("*/trials/*"))) == 2


@pytest.mark.fault("weights exchanged for others under the same name", times=5)
@pytest.mark.parametrize("known", [False, True], ids=["unknown to the database", "with a true checksum"])
def test_weights_of_another_score_are_never_promoted(
    scene: Scene, fault: Fault, repetition: int, known: bool
) -> None:
    """The driver is killed before it promotes; the winner's file is exchanged, and even its checksum."""
    study = scene.study(seed=repetition)
    last = f"acknowledged:{TRIALS * 5}"  # a start and four epochs of each trial
    driver = scene.start("run", study, CHAOS_STOP=last, CHAOS_PACE=0)
    assert driver.wait() == -9, driver.said()
    with scene.store() as store:
        # The winner, where several have the same score.
        best = ranked(store.best("tiny", limit=2), [], minimize=False, tie=LOG_LOSS)[0].trial
    assert best.artifact is not None
    path = Path(best.artifact.uri)
    state = load_file(path)
    save_file({name: torch.randn_like(t) if t.is_floating_point() else t for name, t in state.items()}, path)
    if known:
        _tell_checksum(scene, best.number, sha256_of(path))
    fault.landed(f"trial {best.number}, {best.value}")
    process = scene.start("run", study, CHAOS_PACE=0)
    code = process.wait()
    assert "Traceback" not in process.said()
    with scene.store() as store:
        model = store.model("tiny")
    assert f"trial {best.number} was refused" in process.said()
    if code == 0:
        assert model is not None
        assert model.trial != best.number
    else:
        assert "No model reproduces its recorded score" in process.said()
        assert model is None


def _tell_checksum(scene: Scene, number: int, checksum: str) -> None:
    import sqlite3

    with sqlite3.connect(scene.url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE trials SET artifact_sha256 = ? WHERE number = ?", (checksum, number))
