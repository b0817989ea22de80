"""A search that others pause, go on with, fork and cancel: what the guide to sharing shows, and around it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, field

import pytest

from tests.conftest import Place
from tests.test_docs import ROOT, commands, own

pytestmark = pytest.mark.slow

GUIDE = commands(ROOT / "docs" / "how-to" / "share.md")
STUDY = {
    "strategies": ["fine_tune"],
    "space": {"fine_tune.freeze_depth": {"low": 0.8}},
    "budget": {"trials": 60, "epochs": 4},
    "search": {"pruner": "none", "finalists": 1, "confirm_seeds": 0},
}


@dataclass
class Follower:
    """Who runs the guide's commands on the tiny study, with small numbers."""

    place: Place
    followed: list[str] = field(default_factory=list)

    def __call__(self, line: str, *, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        self.followed.append(line)
        named = [own(word, "tiny") for word in shlex.split(line)[1:]]
        few = [re.sub(r"^(budget[.]trials=|budget[.]epochs=)[0-9]+$", r"\g<1>2", word) for word in named]
        return self.place.here(*("+1" if word == "+50" else word for word in few), code=code, **env)


@pytest.mark.timeout(1200)
def test_a_study_is_paused_resumed_forked_and_cancelled_from_elsewhere(place):
    follow = Follower(place)
    driver = place.start("run", place.study(**STUDY), TLSEARCH_USER="ann")
    place.wait_for(lambda counts: counts["COMPLETE"] >= 1 and counts["RUNNING"] >= 1, driver, 300)
    assert "continues it" in follow("tlsearch study pause flowers", TLSEARCH_USER="bob").stderr
    _, errors = driver.communicate(timeout=550)
    assert (driver.returncode, "Traceback" in errors) == (130, False), errors
    assert "Stopped: paused by bob@" in errors
    (told,) = place.ask("studies")
    assert (told["state"], told["owner"], told["request"]) == ("INTERRUPTED", "ann", None)
    assert told["reason"].startswith("paused by bob@")
    paused = place.ask("trials", "tiny")
    assert {trial["state"] for trial in paused} <= {"COMPLETE", "CANCELLED"}  # it may just have ended
    assert len(paused) < 60

    # Cut down to what it has begun, it ends with exactly these; a fork begins with what they told.
    place.here("resume", "tiny", "--trials", len(paused), "--set", "search.keep=2")
    done = place.ask("trials", "tiny")
    assert [trial["number"] for trial in done] == list(range(len(paused)))
    assert {trial["state"] for trial in done} == {"COMPLETE"}
    assert "start workers" not in follow("tlsearch study resume flowers").stderr  # nothing is left to do
    follow("tlsearch study resume flowers --trials +50")
    done = place.ask("trials", "tiny")
    assert len(done) == len(paused) + 1
    deeper = "tlsearch study fork flowers flowers-deep --set budget.trials=40 --set budget.epochs=30"
    assert "begins with the results" in follow(deeper).stderr
    follow("tlsearch study resume flowers-deep")
    forked = place.ask("trials", "tiny-deep")
    assert [trial["number"] for trial in forked] == [0, 1]
    points = {json.dumps(trial["params"], sort_keys=True) for trial in (*done, *forked)}
    assert len(points) == len(done) + 2  # none of its parent's points was tried again
    told = {study["name"]: study for study in place.ask("studies")}["tiny-deep"]
    assert (told["parent"], told["state"]) == ("tiny", "COMPLETE")

    said = follow("tlsearch study cancel flowers", code=2).stderr
    assert "complete: there is nothing to cancel" in said
    follow("tlsearch study fork flowers flowers-2")
    place.here("cancel", "tiny-2")
    said = place.here("resume", "tiny-2", code=2).stderr
    assert '"tiny-2" was cancelled by' in said
    assert "tlsearch study fork tiny-2" in said
    assert "CANCELLED" in follow("tlsearch study list").stdout
    assert sorted(follow.followed) == sorted(GUIDE)
