"""Trials that go wrong by themselves: no memory, no number, no result; and the same seed again."""

from __future__ import annotations

import math

import pytest

from tests.chaos.conftest import Fault
from tests.chaos.invariants import check_all, summary
from tests.chaos.scene import Scene
from tlsearch.records import TrialState

QUICK = {"budget": {"trials": 8, "epochs": 4}}


@pytest.mark.fault("out of memory in a trial", times=10, at_once=2)
def test_a_trial_without_memory_fails_alone(scene: Scene, fault: Fault, repetition: int) -> None:
    said = scene.run("run", scene.study(strategies=["chaos_hungry"], seed=repetition, **QUICK), CHAOS_PACE=0)
    trials = check_all(scene, count=8)
    by_appetite = {appetite: set() for appetite in ("modest", "whole_batches", "always", "python")}
    for trial in trials:
        by_appetite[str(trial.params["appetite"])].add(trial.state)
        if trial.state is TrialState.FAILED:
            assert "out of memory" in trial.reason, trial.reason
    fault.landed(f"{summary(trials)}", sum(trial.state is TrialState.FAILED for trial in trials))
    assert by_appetite["modest"] == {TrialState.COMPLETE}
    assert by_appetite["whole_batches"] == {TrialState.COMPLETE}, "a smaller micro-batch would have done"
    assert by_appetite["always"] == by_appetite["python"] == {TrialState.FAILED}
    assert "out of memory" in said


@pytest.mark.fault("metric is {kind}", times=6, at_once=3)
@pytest.mark.parametrize("kind", ["nan", "inf", "-inf", "none", "missing"])
def test_a_metric_that_is_no_number_is_never_best(
    scene: Scene, fault: Fault, kind: str, repetition: int
) -> None:
    study = scene.study(
        resources={"concurrent": 1}, search={"sampler": "tpe", "finalists": 3}, seed=repetition, **QUICK
    )
    scene.run("run", study, CHAOS_ODD=kind, CHAOS_PACE=0)
    trials = check_all(scene, count=8)
    odd = {landing["number"] for landing in scene.landings()}
    fault.landed(f"trials {sorted(odd)}", len(odd))
    assert odd == {1, 3, 5, 7}
    for trial in trials:
        failed = trial.number in odd
        assert trial.state is (TrialState.FAILED if failed else TrialState.COMPLETE), trial.reason
        assert (trial.value is None) == failed
        assert trial.value is None or math.isfinite(trial.value)
    assert any("accuracy" in trial.reason for trial in trials if trial.number in odd)


@pytest.mark.fault("weights become NaN or inf", times=10, at_once=2)
def test_weights_that_are_no_numbers_fail_their_trial(scene: Scene, fault: Fault, repetition: int) -> None:
    scene.run("run", scene.study(strategies=["chaos_broken"], seed=repetition, **QUICK), CHAOS_PACE=0)
    trials = check_all(scene, count=8)
    poisoned = [trial for trial in trials if trial.params["poison"] != "none"]
    fault.landed(summary(trials).__str__(), len(poisoned))
    assert all(trial.state is TrialState.FAILED and trial.value is None for trial in poisoned)
    assert all("loss became" in trial.reason for trial in poisoned)
    assert all(trial.state is TrialState.COMPLETE for trial in trials if trial not in poisoned)


@pytest.mark.fault("same seed, one worker, three runs", times=3)
def test_the_same_seed_gives_the_same_points_and_scores(scene: Scene, fault: Fault, repetition: int) -> None:
    told = []
    for number in range(3):
        alike = {"resources": {"concurrent": 1}, "seed": 10 + repetition, "search": {"sampler": "tpe"}}
        name = f"run-{number}"
        scene.run("run", scene.study(name, **alike, **QUICK), CHAOS_PACE=0)
        with scene.store() as store:
            trials = store.trials(name)
            curves = [store.epochs(name, trial.number) for trial in trials]
        told.append(
            (
                [(t.backbone, t.strategy, dict(t.params), t.state, t.value, dict(t.metrics)) for t in trials],
                [[(epoch.epoch, epoch.value, dict(epoch.metrics)) for epoch in curve] for curve in curves],
                [trial.artifact.sha256 for trial in trials if trial.artifact],
            )
        )
        fault.landed(f"{len(trials)} trials")
    assert told[0] == told[1] == told[2]
