"""A study of boxes in folders: proposed, searched, predicted, scored, looked at and exported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

import tlsearch
from tests.boxes import composites, write
from tests.one_process import searched_folder
from tests.tiny.tiny_looking import drawn_figures
from tlsearch.cli.app import app
from tlsearch.errors import DataError, SpecError
from tlsearch.models.evaluation import evaluate
from tlsearch.models.export.write import export
from tlsearch.reports import html
from tlsearch.search.study_template import propose
from tlsearch.spec.presets import preset

STUDY = {
    "study": "digits-found",
    "data": {"source": "boxes", "image_size": 96, "split": {"val": 0.25, "test": 0.25}},
    "backbones": ["efficientnet_lite/lite0"],
    "strategies": ["decoder_probe"],
    "budget": {"trials": 1, "epochs": 30},
    "space": {"*.batch_size": 8, "*.patience": 30},
    "search": {"finalists": 1, "confirm_seeds": 0, "refit": False},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    with searched_folder(folder, STUDY, write(folder / "data", 48)) as result:
        yield folder, result


@pytest.mark.slow
def test_it_learns_to_find_digits_on_stored_maps(searched):
    folder, _ = searched
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        (trial,) = studies.store.trials("digits-found")
        best = studies.best("digits-found")
    assert trial.state == "COMPLETE", trial.reason
    assert trial.freeze_depth == trial.groups
    assert best.metric == "map_50_95"
    # An untrained network finds none: its mean average precision at 0.5 is below 0.01.
    assert best.metrics["test"]["map_50"] > 0.6


@pytest.mark.slow
def test_boxes_are_told_in_pixels_and_drawn(searched, tmp_path):
    folder, result = searched
    path = folder / "data/images/001.jpg"
    _, boxes = composites(2)[1]
    large = tmp_path / "large.png"
    Image.open(path).resize((960, 720)).save(large)
    words = ["predict", result.model.uri, str(path), str(large), "--json", "--save", str(tmp_path / "saved")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    small, enlarged = (told["objects"] for told in json.loads(done.stdout))
    assert {one["label"] for one in small} <= {"zero", "one"}
    found = [one["box"] for one in small]
    assert any(box == pytest.approx(one, abs=6) for _, *box in boxes for one in found)
    assert [edge / 10 for edge in enlarged[0]["box"]] == pytest.approx(found[0], abs=3)
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == [
        "00000-001.jpg",
        "00001-large.jpg",
        "contact-sheet.jpg",
    ]


@pytest.mark.slow
def test_it_is_scored_on_another_folder_and_format(searched, tmp_path):
    _, result = searched
    model = tlsearch.load(result.model.uri)
    told = evaluate(model, write(tmp_path / "more", 16, form="coco", seed=1))
    assert told.items == 16
    assert told.metrics["map_50"] > 0.5
    assert set(told.per_class) == {"zero", "one"}
    other = write(tmp_path / "other", 8, form="yolo")
    (other / "data.yaml").write_text("names: [cat, dog]\n")
    with pytest.raises(DataError, match="which is not known"):
        evaluate(model, other)


@pytest.mark.slow
def test_the_report_shows_boxes(searched, browser):
    folder, _ = searched
    path = html.write(f"sqlite:///{folder}/s.db", "digits-found", folder / "page.html")
    assert {"class_precision", "threshold"} <= drawn_figures(browser, path)
    page = path.read_text()
    assert "Smallest errors" in page
    assert page.count("data:image/jpeg") >= 12


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_exports_find_the_same_objects(searched, tmp_path, format):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    pictures = sorted((folder / "data/images").iterdir())[:4]
    export(model, tmp_path / "export", [format], items=pictures)
    done = subprocess.run(
        [sys.executable, "predict.py", "--json", *map(str, pictures)],
        cwd=tmp_path / "export",
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)["objects"]
    for told, one in zip(model.describe(pictures), found, strict=True):
        assert len(one) == len(told.objects)
        for here, there in zip(told.objects, one, strict=True):
            assert here["label"] == there["label"]
            assert here["box"] == pytest.approx(there["box"], abs=0.2)


def test_init_knows_boxes(tmp_path):
    data = write(tmp_path / "data", 9)
    found = propose(data, name=None, beside=tmp_path, preset=preset("quick"))
    assert found.task == "detection"
    assert "source: boxes" in found.text
    assert "metric: map_50_95" in found.text
    assert "resize" not in found.text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"strategies": ["linear_probe"]}, "linear_probe.* needs feature maps"),
        ({"data": {**STUDY["data"], "resize": "crop"}}, "resize.*squash"),
        ({"task": "regression"}, "numbers"),
        ({"task": "segmentation"}, "no masks"),
    ],
)
def test_what_boxes_do_not_go_with(tmp_path, words, told):
    data = str(write(tmp_path / "data", 9))
    study = {**STUDY, "strategies": ["fine_tune"], **words}
    study["data"] = {**study["data"], "path": data}
    with pytest.raises((SpecError, DataError), match=told):
        tlsearch.run(study, db=f"sqlite:///{tmp_path}/s.db")
    assert not (tmp_path / "s.db").exists()


def test_bad_boxes_end_a_run_before_it_begins(tmp_path):
    data = write(tmp_path / "data", 9)
    (data / "annotations/001.xml").unlink()
    study = {**STUDY, "data": {**STUDY["data"], "path": str(data)}}
    with pytest.raises(DataError, match=r"images/001.jpg: has no annotation"):
        tlsearch.run(study, db=f"sqlite:///{tmp_path}/s.db")
    assert not (tmp_path / "s.db").exists()
