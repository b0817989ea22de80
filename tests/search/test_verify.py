"""The question to the process that verifies a model reaches it whole, however late it reads."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import tiny_study
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.counts import plural
from tlsearch.database.store import Store
from tlsearch.errors import VerificationError
from tlsearch.records import StudyItems
from tlsearch.search.verify import verify

SECONDS = 60
"""After which a process that waits for the rest of its question is killed."""


def test_a_long_question_reaches_a_process_that_is_slow_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    names = tuple(f"item {number}" for number in range(5000))
    items = StudyItems(names=names, hashes=("0" * 64,) * 5000, labels=names, splits=("val",) * 5000)
    until = time.monotonic() + SECONDS
    spec = {"study": "s", "data": {"source": "folder", "path": "none"}, "backbones": ["tiny/net"]}
    with pytest.raises(VerificationError, match="is not a model bundle"):
        verify(
            tmp_path / "no bundle",
            spec=spec,
            items=items,
            metric="accuracy",
            values=[1.0],
            test=False,
            stopping=lambda: "late" if time.monotonic() > until else "",
        )


def test_scores_tell_in_how_many_groups_their_items_come(tmp_path: Path) -> None:
    described = tiny_study.document(
        tiny_study.colours(tmp_path / "pictures"),
        data={"groups": r"\d(\d)\.png"},
        strategies=["linear_probe"],
        budget={"trials": 1},
    )
    result = tiny_study.run(tmp_path, described)
    assert result.model is not None
    with Store.open(tiny_study.url(tmp_path)) as store:
        items = store.items("tiny")
    assert items is not None
    groups = {split: {items.names[at][-5] for at in items.of(split)} for split in ("val", "test")}
    assert {split: result.model.metrics[split]["groups"] for split in groups} == {
        split: len(own) for split, own in groups.items()
    }
    said = CliRunner().invoke(app, ["show", "tiny", "--db", tiny_study.url(tmp_path)]).stdout
    told = " ".join(said.split())
    assert "trials: 1 complete time" in told
    few = f"each counted alone; they come in {plural(len(groups['test']), 'group')}, so it is too narrow"
    assert f"{len(items.of('test'))} items, {few}" in told
    learned = f"learned from {len(items.of('train'))} of 60 labelled items, without the"
    assert learned in told
    assert "search.refit is false" in told
    assert "baseline 0." in told
    assert "the commonest class" in told
