"""Heads that the driver fits itself while Ray comes up: real searches, one with a real Ray."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WORKERS = "start workers"
COMMAND = "from tlsearch.cli import main; from tlsearch.search import first_heads; first_heads.{}; main()"
PATIENT = COMMAND.format("SECONDS = 300")
"""The command line, whose driver fits heads for as long as a busy machine may need."""
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
