"""The process that measures bundles: one for each question, or one that stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny_study

from tlsearch.search import study
from tlsearch.search.measurer import COMMAND, Measurer
from tlsearch.search.progress import Snapshot
from tlsearch.spec import parse

QUESTION = json.dumps(
    {
        "bundle": "no bundle",
        "spec": {"study": "s", "data": {"source": "folder", "path": "none"}, "backbones": ["tiny/net"]},
    }
)
"""Answered by an error, after all was imported."""


def processes() -> set[int]:
    found = psutil.Process().children(recursive=True)
    return {process.pid for process in found if process.is_running() and COMMAND[1] in process.cmdline()}


def told(measurer: Measurer, *, stopping: str = "") -> dict[str, object]:
    return measurer.ask(QUESTION, stopping=lambda: stopping, progress=lambda done, total: None)


@pytest.fixture
def staying() -> Iterator[Measurer]:
    measurer = Measurer()
    measurer.begin(["tiny"])
    yield measurer
    measurer.close()
    assert not processes()


def test_a_process_ends_with_its_answer():
    assert "is not a model bundle" in str(told(Measurer())["error"])
    assert not processes()


def test_a_process_that_stays_answers_again(staying: Measurer):
    before = processes()
    assert len(before) == 1
    assert told(staying)["error"] == told(staying)["error"]
    assert processes() == before


def test_a_process_that_dies_is_told_of_and_another_answers(staying: Measurer):
    for pid in processes():
        psutil.Process(pid).kill()
    assert told(staying)["died"] == "exit code -9"
    assert "error" in told(staying)


def test_one_that_is_broken_off_ends(staying: Measurer):
    assert told(staying, stopping="asked to stop")["died"] == "exit code -9"
    assert not staying.begun


@pytest.mark.slow
def test_one_process_measures_the_winner_and_its_refit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLSEARCH_LOCAL", "1")
    asked = tiny_study.document(
        tiny_study.colours(tmp_path / "pictures"),
        backbones=["efficientnet_lite/lite0"],
        data={"image_size": 32},
        strategies=["linear_probe"],
        budget={"trials": 2},
        search={"refit": True, "members": 1},
    )
    seen: dict[str, set[int]] = {}

    def observe(told: Snapshot) -> None:
        seen.setdefault(told.phase, set()).update(processes())

    result = study.run(
        parse(asked), database=tiny_study.url(tmp_path), artifacts=tmp_path / "a", observe=observe
    )
    assert result.model is not None
    assert result.model.metrics["handed_out"]["refitted"]
    assert len(seen["verify the winner"]) == 1
    assert seen["measure the final model"] == seen["verify the winner"]
    assert not processes()
