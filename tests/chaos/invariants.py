"""What must hold after every fault: I1 to I7."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.scene import Scene, temporary
from tlsearch.files import sha256_of
from tlsearch.records import TrialRecord, TrialRole, TrialState
from tlsearch.training.checkpoints import SECONDS

SLACK = 2.0
"""Seconds that a machine with other work may add to what is measured by its clock."""


def check_acknowledged(scene: Scene, study: str = "tiny") -> list[TrialRecord]:
    """I1: what was acknowledged is stored, and the database finds nothing wrong with itself."""
    with scene.store() as store:
        assert store.check() == [], "I1: the database is damaged"
        if store.find_study(study) is None:
            assert not scene.acknowledged(study=study), "I1: the study is gone"
            return []
        trials = store.trials(study)
        stored = {trial.number: trial for trial in trials}
        for told in scene.acknowledged("start_trials", study):
            assert told["number"] in stored, f"I1: trial {told['number']} was started and is not stored"
            assert stored[told["number"]].attempt >= told["attempt"], f"I1: an attempt is lost: {told}"
        for told in scene.acknowledged("record", study):
            trial = stored[told["number"]]
            if told["refused"] or trial.attempt != told["attempt"]:
                continue
            if told["state"] is not None:
                assert trial.state.value == told["state"], f"I1: {told} is stored as {trial.state}"
                assert trial.value == told["outcome"], f"I1: {told} is stored as {trial.value}"
            if told["epoch"] > 0:
                curve = {epoch.epoch: epoch.value for epoch in store.epochs(study, trial.number)}
                value = told["value"]
                finite = value if value is not None and math.isfinite(value) else None
                assert curve.get(told["epoch"], ...) == finite, f"I1: {told} is not in {curve}"
        model = store.model(study)
        pinned = scene.acknowledged("pin_model", study)
        if pinned:
            assert model is not None, "I1: the model is gone"
            assert model.sha256 in {told["sha256"] for told in pinned}
        check_files(trials)
    return trials


def check_files(trials: list[TrialRecord]) -> None:
    """Never a row without its file, whole."""
    for trial in trials:
        if trial.artifact is not None:
            path = Path(trial.artifact.uri)
            assert path.is_file(), f"a row without its file: {path}"
            assert sha256_of(path) == trial.artifact.sha256, f"{path} isn't what was recorded"


def check_ended(trials: list[TrialRecord]) -> None:
    """I2: every trial has ended, with a reason."""
    for trial in trials:
        assert trial.state.final, f"I2: trial {trial.number} is {trial.state}"
        assert trial.reason, f"I2: trial {trial.number} ended without a reason"
        assert trial.finished is not None
        assert trial.finished >= trial.started


def check_numbers(scene: Scene, trials: list[TrialRecord], *, count: int, study: str = "tiny") -> None:
    """I3: numbers are unique, retries are linked, no trial too many or too few."""
    searched = [trial.number for trial in trials if trial.role is TrialRole.SEARCH]
    assert sorted(searched) == list(range(count)), f"I3: trials {sorted(searched)}, wanted {count}"
    begun: dict[tuple[int, int], set[int]] = {}
    for told in scene.acknowledged("start_trials", study):  # the same driver may say it twice
        begun.setdefault((told["number"], told["attempt"]), set()).add(told["token"])
    assert all(len(drivers) == 1 for drivers in begun.values()), f"I3: two drivers began an attempt: {begun}"


def check_best(scene: Scene, trials: list[TrialRecord], study: str = "tiny", *, model: bool = True) -> None:
    """I4: best is what brute force finds among finite COMPLETE trials; its model is whole and loads."""
    done = [t for t in trials if t.state is TrialState.COMPLETE and t.role is TrialRole.SEARCH]
    assert all(t.value is not None and math.isfinite(t.value) for t in done), "I4: COMPLETE without a value"
    with scene.store() as store:
        best = store.best(study)
        pinned = store.model(study)
    if not done:
        assert not best
        return
    top = max(trial.value or 0.0 for trial in done)
    assert best[0].value == top, f"I4: best is {best[0].value}, brute force finds {top}"
    assert best[0].artifact is not None, "I4: the weights of the best are gone"
    if not model:
        return
    assert pinned is not None, "I4: no model was pinned"
    weights = Path(pinned.uri) / "model.safetensors"
    assert sha256_of(weights) == pinned.sha256, "I4: the model isn't what was recorded"
    from safetensors.torch import load_file

    assert load_file(weights), "I4: the model doesn't load"


def check_resumed(scene: Scene, study: str = "tiny") -> None:
    """I5: finished trials never ran again; others lost an epoch, or the few seconds that a write would cost.

    A trial that goes on from a checkpoint tells that epoch again; what comes after it is trained again.
    """
    over: set[int] = set()
    last: dict[int, tuple[int, int, float]] = {}
    when: dict[tuple[int, int], float] = {}
    for told in scene.acknowledged(study=study):
        number = told.get("number")
        if told["what"] == "start_trials":
            assert number not in over, f"I5: trial {number} had finished and ran again"
        elif told["what"] == "record" and not told["refused"]:
            epoch, attempt = told["epoch"], told["attempt"]
            if number in last and last[number][0] != attempt and epoch > 0:
                _, reached, at = last[number]
                lost = at - when.get((number, epoch), at)
                assert reached - epoch <= 1 or lost < SECONDS + SLACK, (
                    f"I5: trial {number} went on from epoch {epoch} of {reached}, {lost:.1f} s before"
                )
            if epoch > 0:
                last[number] = (attempt, epoch, told["time"])
                when[number, epoch] = told["time"]
            if told["state"] in ("COMPLETE", "PRUNED", "FAILED"):
                over.add(number)


def check_left(scene: Scene, *, within: float = 120) -> None:
    """I6: no orphan process, no lock, no temporary file."""
    until = time.monotonic() + within
    while (left := scene.processes()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, f"I6: left running: {left}"
    files = [path for path in temporary(scene.folder) if path.exists()]
    assert not files, f"I6: left lying: {files}"
    # The folder of torch's compiler is a cache of this user's, made at its import and the same for all.
    scratch = [p for p in (scene.folder / "temporary").iterdir() if not p.name.startswith("torchinductor")]
    assert not scratch, f"I6: left lying: {scratch}"


def check_checkpoints(scene: Scene, study: str) -> None:
    """I6 of checkpoints: trials that have ended have none."""
    left = list(scene.artifacts.glob(f"{study}-2*/checkpoints/*/*"))
    assert not left, f"I6: checkpoints of trials that have ended: {left}"


def check_kept(scene: Scene, trials: list[TrialRecord], study: str = "tiny") -> None:
    """I6 of weights: whatever lies there belongs to a trial or is the study's model."""
    wanted = {trial.artifact.uri for trial in trials if trial.artifact is not None}
    for path in scene.artifacts.glob(f"{study}-2*/trials/*"):
        assert str(path) in wanted, f"I6: nobody's file: {path}"


def check_all(scene: Scene, *, count: int, study: str = "tiny", model: bool = True) -> list[TrialRecord]:
    """All of them, of a study that has come to its end."""
    trials = check_acknowledged(scene, study)
    check_ended(trials)
    check_numbers(scene, trials, count=count, study=study)
    check_best(scene, trials, study, model=model)
    check_resumed(scene, study)
    check_left(scene)
    check_kept(scene, trials, study)
    check_checkpoints(scene, study)
    return trials


def summary(trials: list[TrialRecord]) -> dict[str, Any]:
    """Trials by state, for a message."""
    return dict(Counter(trial.state.value for trial in trials))
