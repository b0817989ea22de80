"""A task of fewer than 60 lines, from another package: searched, asked, used and exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlsearch
from tests.one_process import one_process, verify_here
from tlsearch import registry
from tlsearch.errors import SpecError
from tlsearch.models.export.write import export

PACKAGE = Path(__file__).parents[1] / "throw_away"
STUDY = {
    "study": "means",
    "data": {"source": "grey_pictures", "split": {"val": 0.2, "test": 0.2}},
    "backbones": ["tiny/net"],
    "strategies": ["linear_probe", "fine_tune"],
    "budget": {"trials": 5, "epochs": 3},
    "search": {"finalists": 2, "confirm_seeds": 1},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("means")
    added = [str(PACKAGE), str(PACKAGE.parent / "tiny")]
    sys.path += added
    registry.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLSEARCH_CACHE", str(folder / "cache"))
        with one_process(verify=verify_here):
            result = tlsearch.run(STUDY, db=f"sqlite:///{folder}/s.db", artifacts=folder / "artifacts")
        yield folder, result
    for path in added:
        sys.path.remove(path)
    registry.forget()


def test_it_is_small():
    assert len((PACKAGE / "mean_pixel.py").read_text().splitlines()) < 60


def test_it_is_searched_and_the_best_is_the_smallest_error(searched):
    folder, _ = searched
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        record = studies.store.study("means")
        trials = studies.store.trials("means")
        best = studies.best("means")
    assert (record.metric, record.direction) == ("mean_error", "minimize")
    assert all(trial.state == "COMPLETE" for trial in trials), [trial.reason for trial in trials]
    assert {trial.strategy for trial in trials} == {"linear_probe", "fine_tune"}
    assert best.metrics["test"]["mean_error"] < 0.25
    assert json.loads((Path(best.model.uri) / "bundle.json").read_text())["task"] == "mean_pixel"


def test_it_predicts_numbers(searched):
    _, result = searched
    model = tlsearch.load(result.model.uri)
    dark, light = (np.full((16, 16, 3), level, np.uint8) for level in (30, 190))
    one, other = model.describe([dark, light])
    assert set(one) == {"item", "mean", "error"}
    assert one.mean < other.mean


def test_it_is_exported(searched, tmp_path):
    folder, result = searched
    picture = folder / "picture.png"
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(picture)
    done = export(tlsearch.load(result.model.uri), tmp_path / "export", ["torch"], items=[picture])
    assert len(done) == 1


def test_strategies_of_other_tasks_are_left_out_or_refused(searched):
    folder, _ = searched
    with pytest.raises(SpecError, match=r"feature_copy.*mean_pixel"):
        tlsearch.run(
            {**STUDY, "study": "other", "strategies": ["feature_copy"]}, db=f"sqlite:///{folder}/s.db"
        )
