"""With one worker and a seed, a search that was interrupted tries what the undisturbed one tries."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import tiny_study

from tlsearch.search.progress import Snapshot


@pytest.mark.parametrize("heads", [None, 1])
def test_an_interrupted_search_tries_the_same_points_with_the_same_scores(
    tmp_path: Path, heads: int | None
) -> None:
    pictures = tiny_study.colours(tmp_path / "pictures")
    study = tiny_study.document(
        pictures, budget={"trials": 12, "epochs": 2}, search={"heads_per_trial": heads, "confirm_seeds": 1}
    )
    tiny_study.run(tmp_path / "whole", study)
    interrupted = [2, 4, 7, 10]
    told = 0

    def observe(snapshot: Snapshot) -> None:
        if snapshot.phase == "search" and interrupted and snapshot.done >= interrupted[0]:
            interrupted.pop(0)
            os.kill(os.getpid(), signal.SIGINT)

    while tiny_study.run(tmp_path / "parts", study, observe=observe).interrupted:
        told += 1
    assert told >= 2
    whole, parts = (
        [(t.number, t.strategy, t.params, t.role, t.seed, t.state, t.value) for t in tiny_study.trials(place)]
        for place in (tmp_path / "whole", tmp_path / "parts")
    )
    assert parts == whole
