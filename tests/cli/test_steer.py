"""A search that others pause, go on with, fork and cancel, by the command line."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow

STUDY = {
    "strategies": ["fine_tune"],
    "space": {"fine_tune.freeze_depth": {"low": 0.8}},
    "budget": {"trials": 60, "epochs": 4},
    "search": {"pruner": "none", "finalists": 1, "confirm_seeds": 0},
}


@pytest.mark.timeout(1200)
def test_a_study_is_paused_resumed_forked_and_cancelled_from_elsewhere(place):
    driver = place.start("run", place.study(**STUDY), TLSEARCH_USER="ann")
    place.wait_for(lambda counts: counts["COMPLETE"] >= 1 and counts["RUNNING"] >= 1, driver, 300)
    assert "goes on" in place.run("pause", "tiny", TLSEARCH_USER="bob").stderr
    _, errors = driver.communicate(timeout=200)
    assert (driver.returncode, "Traceback" in errors) == (130, False), errors
    assert "Stopped: paused by bob@" in errors
    (told,) = place.ask("studies")
    assert (told["state"], told["owner"], told["request"]) == ("INTERRUPTED", "ann", None)
    assert told["reason"].startswith("paused by bob@")
    paused = place.ask("trials", "tiny")
    assert {trial["state"] for trial in paused} <= {"COMPLETE", "CANCELLED"}  # it may just have ended
    assert len(paused) < 60

    # Cut down to what it has begun, it ends with exactly these; a fork begins with what they told.
    place.run("resume", "tiny", "--trials", len(paused), "--set", "search.keep=2")
    done = place.ask("trials", "tiny")
    assert [trial["number"] for trial in done] == list(range(len(paused)))
    assert {trial["state"] for trial in done} == {"COMPLETE"}
    place.run("resume", "tiny", "--trials", "+1")
    done = place.ask("trials", "tiny")
    assert len(done) == len(paused) + 1
    assert "begins with what" in place.run("fork", "tiny", "tiny-2", "--set", "budget.trials=2").stderr
    place.run("resume", "tiny-2")
    forked = place.ask("trials", "tiny-2")
    assert [trial["number"] for trial in forked] == [0, 1]
    points = {json.dumps(trial["params"], sort_keys=True) for trial in (*done, *forked)}
    assert len(points) == len(done) + 2  # none of its parent's points was tried again
    assert next(s for s in place.ask("studies") if s["name"] == "tiny-2")["parent"] == "tiny"

    said = place.run("cancel", "tiny-2", code=2).stderr
    assert "complete: there is nothing to cancel" in said
    place.run("fork", "tiny", "tiny-3")
    place.run("cancel", "tiny-3")
    said = place.run("resume", "tiny-3", code=2).stderr
    assert '"tiny-3" was cancelled by' in said
    assert "tlsearch fork tiny-3" in said
    assert "CANCELLED" in place.run("studies").stdout
