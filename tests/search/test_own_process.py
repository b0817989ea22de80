"""Heads that the driver fits itself while Ray comes up: real searches, one with a real Ray."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tlsearch.search import own_process
from tlsearch.spec import parse

pytestmark = pytest.mark.slow

WORKERS = "start workers"
COMMAND = "from tlsearch.cli import main; from tlsearch.search import own_process; own_process.{}; main()"
PATIENT = COMMAND.format("SECONDS = 300")
"""The command line, whose driver fits heads for as long as a busy machine may need."""
UNHURRIED = COMMAND.format("SHORT = 1200")
"""The command line, to which twenty minutes are short: so many last for everything on a busy machine, too."""
AS_LARGE_DATA = COMMAND.format("MOST_OPERATIONS = 1")
"""The command line, to whose driver no data are small."""


def run(place, command: str, file: Path) -> str:
    return subprocess.run(
        [place.python, "-c", command, "run", file],
        cwd=place.folder,
        env=place.env,
        capture_output=True,
        text=True,
        check=True,
    ).stderr


def study(place, name: str, **changes: object) -> Path:
    return place.study(
        study=name, budget={"trials": 6}, search={"finalists": 1, "confirm_seeds": 0}, **changes
    )


def trials(place, name: str) -> list[tuple[object, ...]]:
    found = place.ask("trials", name)
    assert {trial["state"] for trial in found} == {"COMPLETE"}
    return [(trial["number"], trial["strategy"], trial["params"], trial["metrics"]) for trial in found]


def test_a_short_search_starts_no_worker(place):
    """Heads, fine-tuning and repetitions run in the driver's process, on all cores."""
    short = place.study(
        strategies=["linear_probe", "fine_tune"],
        budget={"trials": 3, "epochs": 2, "minutes": 20},
        resources=None,
    )
    said = run(place, UNHURRIED, short)
    assert WORKERS not in said
    assert "trials run in this process" in said
    found = place.ask("trials", "tiny")
    assert {trial["strategy"] for trial in found} == {"linear_probe", "fine_tune"}
    assert {trial["role"] for trial in found} == {"search", "confirm"}
    assert Path(place.ask("best", "tiny")["model"]["uri"]).is_dir()


def test_who_says_what_trials_get_has_workers():
    def short(spent: float = 0.0, **sections: object) -> bool:
        plain = {
            "study": "s",
            "data": {"source": "folder", "path": "none"},
            "backbones": ["tiny/net"],
            **sections,
        }
        return own_process.is_short(parse(plain), spent=spent)

    assert short(budget={"minutes": 2})
    assert not short(budget={"minutes": 3})
    assert short(budget={"minutes": 3}, spent=90.0)
    assert not short(budget={"trials": 5})
    assert not short(budget={"minutes": 1}, resources={"concurrent": 2})
    assert not short(budget={"minutes": 1}, resources={"cpus_per_trial": 2})


HEADS = ["linear_probe", "feature_copy"]


def test_a_search_of_small_heads_needs_no_worker(place):
    assert WORKERS not in run(place, PATIENT, study(place, "here", strategies=HEADS))
    assert len(trials(place, "here")) == 6


@pytest.mark.long
def test_small_heads_score_as_with_a_worker(place):
    place.here("run", study(place, "here", strategies=HEADS))
    assert WORKERS in run(place, AS_LARGE_DATA, study(place, "there", strategies=HEADS))
    assert trials(place, "here") == trials(place, "there")


def test_others_heads_go_to_workers(place):
    """A plugin's code may end the process that it runs in; the driver's is to live."""
    assert WORKERS in place.run("run", study(place, "others", strategies=["ranpac"])).stderr


def test_the_driver_goes_on_with_workers_where_it_left_off(place):
    said = place.run("run", study(place, "both", strategies=["linear_probe", "fine_tune"])).stderr
    assert WORKERS in said
    ended = place.ask("trials", "both")
    assert {trial["strategy"] for trial in ended} == {"linear_probe", "fine_tune"}
    assert {trial["state"] for trial in ended} <= {"COMPLETE", "PRUNED"}
