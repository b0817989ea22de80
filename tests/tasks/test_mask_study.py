"""A study of masks in folders: proposed, searched, predicted, scored, looked at and exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tlsearch
from tests.masks import write
from tests.one_process import searched_folder
from tests.tiny.tiny_looking import drawn_figures
from tlsearch.cli.app import app
from tlsearch.errors import DataError, SpecError
from tlsearch.models.evaluation import evaluate
from tlsearch.models.export.write import export
from tlsearch.reports import html
from tlsearch.search.setup import prepare
from tlsearch.search.study_template import propose
from tlsearch.spec import parse
from tlsearch.spec.presets import preset

STUDY = {
    "study": "digits-in-photographs",
    "data": {"source": "masks", "image_size": 64, "mask_size": 48, "split": {"val": 0.2, "test": 0.2}},
    "backbones": ["efficientnet_lite/lite0"],
    "strategies": ["decoder_probe", "fine_tune"],
    "budget": {"trials": 2, "epochs": 25},
    "space": {"*.batch_size": 8, "*.patience": 30, "*.augmentation": "none"},
    "search": {"finalists": 1, "confirm_seeds": 0, "refit": False},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    with searched_folder(folder, STUDY, write(folder / "data", 40)) as result:
        yield folder, result


@pytest.mark.slow
def test_both_strategies_learn_it_from_stored_maps(searched):
    folder, _ = searched
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        trials = studies.store.trials("digits-in-photographs")
        best = studies.best("digits-in-photographs")
        items = studies.store.items("digits-in-photographs")
    assert all(trial.state == "COMPLETE" for trial in trials), [trial.reason for trial in trials]
    assert {trial.strategy for trial in trials} == {"decoder_probe", "fine_tune"}
    assert best.metric == "mean_iou"
    assert best.metrics["test"]["mean_iou"] > 0.5, "of the ground alone it is 0.31"
    assert all(trial.value > 0.5 for trial in trials), [trial.value for trial in trials]
    probes = [trial for trial in trials if trial.strategy == "decoder_probe"]
    assert all(trial.freeze_depth == trial.groups for trial in probes)
    assert all(trial.cache == "prefix" for trial in trials), [trial.cache for trial in trials]
    seen = sum(trial.costs.prefix_images for trial in trials)
    assert seen == len(items.of("train", "stop", "val")), "each item passes frozen layers once"


@pytest.mark.slow
def test_masks_are_predicted_in_the_size_and_values_of_the_data(searched):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    (told,) = model.describe([folder / "data/images/001.jpg"])
    assert set(told) == {"item", "shares", "mask", "error"}
    assert sum(told["shares"].values()) == pytest.approx(1, abs=1e-4)
    words = ["predict", result.model.uri, str(folder / "data/images"), "--save", str(folder / "saved")]
    assert CliRunner().invoke(app, words).exit_code == 0
    agree = []
    for path in sorted((folder / "data/masks").iterdir()):
        truth = np.asarray(Image.open(path))
        guess = np.asarray(Image.open(folder / "saved" / path.name))
        assert guess.shape == truth.shape
        agree.append((guess == truth)[truth > 0].mean())
    assert np.mean(agree) > 0.5
    assert len(list((folder / "saved/over").iterdir())) == 40


@pytest.mark.slow
def test_it_is_scored_on_another_folder(searched, tmp_path):
    _, result = searched
    model = tlsearch.load(result.model.uri)
    told = evaluate(model, write(tmp_path / "more", 8))
    assert told.items == 8
    assert set(told.per_class) == {"background", "class 1", "class 2"}
    with pytest.raises(DataError, match="value 3, which no class has"):
        evaluate(model, write(tmp_path / "odd", 8, values=(0, 1, 3)))


@pytest.mark.slow
def test_the_report_lays_masks_over_pictures(searched, browser):
    folder, _ = searched
    path = html.write(f"sqlite:///{folder}/s.db", "digits-in-photographs", folder / "page.html")
    assert {"class_overlap", "picture_overlap"} <= drawn_figures(browser, path)
    page = path.read_text()
    assert "Smallest errors" in page
    assert page.count("data:image/jpeg") >= 12


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_exports_put_out_the_same_masks(searched, tmp_path, format):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    pictures = sorted((folder / "data/images").iterdir())[:4]
    export(model, tmp_path / "export", [format], items=pictures)
    words = ["predict.py", str(pictures[0]), "--masks", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path / "export", capture_output=True, text=True, check=True
    )
    assert "background" in done.stdout
    (mask,) = (tmp_path / "out").iterdir()
    CliRunner().invoke(app, ["predict", result.model.uri, str(pictures[0]), "--save", str(tmp_path / "own")])
    own = np.asarray(Image.open(tmp_path / "own" / f"{pictures[0].stem}.png"))
    assert (np.asarray(Image.open(mask)) == own).mean() > 0.999
    how = json.loads((tmp_path / "export/preprocessing.json").read_text())
    assert how["outputs"] == ["logits", "masks"]
    assert how["resize"] == "squash"


def test_init_knows_masks(tmp_path):
    data = write(tmp_path / "data", 8)
    found = propose(data, name=None, beside=tmp_path, preset=preset("quick"))
    assert found.task == "segmentation"
    assert "source: masks" in found.text
    assert "metric: mean_iou" in found.text
    assert "resize" not in found.text


@pytest.mark.parametrize(("said", "size"), [({}, 16), ({"*.batch_size": 8}, 8)])
def test_batches_are_half_of_those_of_labels_unless_a_study_says_otherwise(tmp_path, said, size):
    data = {**STUDY["data"], "path": str(write(tmp_path / "data", 20))}
    backbones = [{"name": "timm/resnet10t", "weights": "random"}]
    study = parse({**STUDY, "data": data, "space": said, "backbones": backbones})
    prepared = prepare(study, cache=tmp_path / "cache", threads=1, observe=lambda told: None)
    starts = [start for branch in prepared.space.branches for start in branch.starts]
    assert {start["batch_size"] for start in starts} == {size}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"strategies": ["linear_probe"]}, "linear_probe.* needs feature maps"),
        ({"data": {**STUDY["data"], "resize": "pad"}}, "resize.*squash"),
        ({"task": "regression"}, "numbers"),
    ],
)
def test_what_masks_do_not_go_with(tmp_path, words, told):
    data = str(write(tmp_path / "data", 8))
    study = {**STUDY, "strategies": ["fine_tune"], **words}
    study["data"] = {**study["data"], "path": data}
    with pytest.raises((SpecError, DataError), match=told):
        tlsearch.run(study, db=f"sqlite:///{tmp_path}/s.db")
    assert not Path(tmp_path / "s.db").exists()
