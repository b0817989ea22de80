"""A study of sets of labels in a table: searched, predicted, scored, looked at, exported."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlsearch
from tests.one_process import one_process, student_of, verify_here
from tests.tiny.tiny_looking import drawn_data, drawn_figures
from tlsearch import registry
from tlsearch.errors import DataError, SpecError
from tlsearch.models import bundle
from tlsearch.models.evaluation import evaluate
from tlsearch.models.export.write import export
from tlsearch.records import HANDED_OUT
from tlsearch.reports import html
from tlsearch.reports.evidence import gather

STUDY = {
    "study": "colours",
    "task": "multilabel",
    "data": {"source": "table", "label_separator": ";", "split": {"val": 0.2, "test": 0.2}},
    "backbones": ["tiny/net"],
    "strategies": ["linear_probe", "feature_copy", "fine_tune"],
    "budget": {"trials": 8, "epochs": 3},
    "search": {"finalists": 2, "confirm_seeds": 1, "members": 2},
}
COLOURS = ("red", "green", "blue")


def pictures(folder: Path, *, columns: bool = False) -> Path:
    """Pictures whose channels are bright or dark, with the names of the bright ones, or 0 and 1 for each."""
    rng = np.random.default_rng(0)
    with (folder / "colours.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", *COLOURS] if columns else ["image", "label"])
        for number in range(90):
            bright = [(number >> bit) & 1 for bit in range(3)]
            pixels = 150 * np.array(bright) + rng.integers(0, 100, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            names = [name for name, held in zip(COLOURS, bright, strict=True) if held]
            rows.writerow([f"{number}.png", *(bright if columns else ["; ".join(names)])])
    return folder / "colours.csv"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    table = pictures(folder)
    tiny = str(Path(__file__).parents[1] / "tiny")
    sys.path.append(tiny)
    registry.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLSEARCH_CACHE", str(folder / "cache"))
        study = {**STUDY, "data": {**STUDY["data"], "path": str(table)}}
        with one_process(verify=verify_here), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = tlsearch.run(study, db=f"sqlite:///{folder}/s.db", artifacts=folder / "artifacts")
    yield folder, result
    sys.path.remove(tiny)
    registry.forget()


def test_every_strategy_learns_it_and_items_without_labels_too(searched):
    folder, _ = searched
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        trials = studies.store.trials("colours")
        best = studies.best("colours")
        counts = studies.store.study("colours").audit["counts"]
    assert all(trial.state == "COMPLETE" for trial in trials), [trial.reason for trial in trials]
    assert {trial.strategy for trial in trials} == {"linear_probe", "feature_copy", "fine_tune"}
    assert {trial.params.get("loss") for trial in trials} >= {"bce", None}
    assert best.metric == "map"
    assert best.metrics["test"]["map"] > 0.8
    assert set(best.metrics["test"]) >= {"macro_f1", "micro_f1", "subset_accuracy", "log_loss"}
    assert all(counts[split]["(no label)"] for split in ("train", "val", "test"))


def test_predictions_are_sets_at_the_thresholds_of_the_model(searched):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    told = list(model.describe([folder / f"{number}.png" for number in range(90)]))
    thresholds = json.loads((Path(result.model.uri) / "bundle.json").read_text())["calibration"]["thresholds"]
    least = dict(zip(model.classes, thresholds, strict=True))
    assert set(told[0]) == {"item", "labels", "probabilities", "error"}
    for one in told:
        assert set(one["labels"]) == {n for n, share in one["probabilities"].items() if share >= least[n]}
    assert model.predict([folder / "0.png"]) == [sorted(told[0]["labels"])]
    right = sum(
        set(one["labels"]) == {name for bit, name in enumerate(COLOURS) if (number >> bit) & 1}
        for number, one in enumerate(told)
    )
    assert right > 45, "by chance it would be 11"


def test_it_is_scored_on_a_table(searched):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    told = evaluate(model, folder / "colours.csv", options={"label_separator": ";"})
    assert told.items == 90
    assert set(told.per_class) == set(COLOURS)
    assert told.metrics["map"] == pytest.approx(sum(told.per_class.values()) / 3)
    (folder / "other.csv").write_text("image,label\n1.png,red;violet\n2.png,green\n")
    with pytest.raises(DataError, match="doesn't know the label 'violet'"):
        evaluate(model, folder / "other.csv", options={"label_separator": ";"})


def test_the_report_shows_each_label(searched, browser):
    folder, _ = searched
    path = html.write(f"sqlite:///{folder}/s.db", "colours", folder / "page.html")
    assert {"labels", "together"} <= drawn_figures(browser, path)
    page = path.read_text()
    assert "The mean average precision is" in page
    true = set(re.findall(r'class="true">true ([^<]*)<', page))
    assert true
    assert all(one == "no label" or set(one.split(", ")) <= set(COLOURS) for one in true), true


def test_the_report_shows_no_value_of_refits_on_items_that_they_learned_from(searched):
    folder, _ = searched
    page = html.write(
        f"sqlite:///{folder}/s.db", "colours", folder / "page.html", run_model=False
    ).read_text()
    rows = re.findall(r"<tr.*?</tr>", page[page.index('id="trials"') :], re.DOTALL)[1:]
    values = [re.findall(r"<td[^>]*>(.*?)</td>", row)[5] for row in rows]
    refits = ["refits" in row for row in rows]
    assert any(refits)
    assert not all(refits)
    assert [value == "–" for value in values] == refits
    assert "Refits have learned from the validation items too" in page


def test_precision_and_recall_are_those_of_the_model_that_is_shown(searched, tmp_path):
    """A description may have the thresholds of a mean of recipes, of which the winner is one alone."""
    folder, result = searched
    assert result.model.metrics[HANDED_OUT]["refitted"], "else it is shown itself"
    described = json.loads((Path(result.model.uri) / "bundle.json").read_text())
    described["calibration"]["thresholds"] = [0.99, 0.99, 0.99]
    of_a_mean = tmp_path / "of-a-mean"
    bundle.write(of_a_mean, network=list(tlsearch.load(result.model.uri).network.members), manifest=described)
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        evidence = gather(studies.store, "colours")
    sha256 = tlsearch.load(of_a_mean).manifest.sha256
    model = dataclasses.replace(evidence.model, uri=str(of_a_mean), sha256=sha256)
    evidence = dataclasses.replace(evidence, model=model)
    looked = html.look(evidence, say=lambda _: None)
    assert looked.found, looked.why
    page = html.render(evidence, looked)
    (figure,) = [one for one in drawn_data(page) if one["name"] == "labels"]
    bars = {trace["name"]: trace["x"] for trace in figure["traces"]}
    f1 = [2 * p * r / max(p + r, 1e-9) for p, r in zip(bars["precision"], bars["recall"], strict=True)]
    assert sum(f1) / 3 == pytest.approx(evidence.winner.metrics["macro_f1"])
    assert f"Shown is trial {evidence.winner.number} as the search trained it" in page


def test_a_student_tells_sets_too(searched, tmp_path):
    folder, result = searched
    teacher = tlsearch.load(result.model.uri)
    student = student_of("colours", teacher, folder, tmp_path / "small")
    assert (student.manifest.members, student.manifest.strategy) == (1, "fine_tune")
    (told,) = student.describe([folder / "7.png"])
    assert set(told["probabilities"]) == set(COLOURS)
    assert set(student.manifest.metrics["test"]) >= set(teacher.manifest.metrics["test"])


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_exports_agree_with_the_model(searched, tmp_path, format):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    export(model, tmp_path / "export", [format], items=[folder / "3.png", folder / "4.png"])
    done = subprocess.run(
        [sys.executable, "predict.py", str(folder / "7.png"), str(folder / "0.png")],
        cwd=tmp_path / "export",
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "tiny"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    for line, one in zip(
        done.stdout.splitlines(), model.describe([folder / "7.png", folder / "0.png"]), strict=True
    ):
        said = line.partition(": ")[2]
        names = [] if said == "no label" else [part.split()[0] for part in said.split(", ")]
        assert names == one["labels"]


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([f"{n}.png,maybe {n},1" for n in range(20)], {"label_column": ["red", "green"]}, "can't be read"),
        ([f"{n}.png,{n % 2},1" for n in range(20)], {"label_column": ["red", "green"]}, '"green": there is'),
        ([f"{n}.png,{n % 2},0" for n in range(20)], {"label_column": ["red", "green"]}, '"green": there is'),
        ([f"{n}.png,a;b,{n % 2}" for n in range(20)], {"label_column": "red"}, "class; at least 2"),
        (
            [f"{n}.png,{'a;b' if n % 2 else 'a'},0" for n in range(20)],
            {"label_column": "red"},
            "several labels in one cell",
        ),
        ([f"{n}.png,,0" for n in range(20)], {"label_column": "red", "label_separator": ";"}, "No item has"),
        ([f"{n}.png,1,0" for n in range(20)], {"label_column": ["red"], "label_separator": ";"}, "one label"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(searched, tmp_path, rows, options, told):
    folder, _ = searched
    (tmp_path / "bad.csv").write_text("\n".join(["image,red,green", *rows]))
    data = {"source": "table", "path": str(tmp_path / "bad.csv"), "root": str(folder), **options}
    with pytest.raises(DataError, match=told):
        tlsearch.run({**STUDY, "study": "bad", "data": data}, db=f"sqlite:///{tmp_path}/s.db")
    assert not (tmp_path / "s.db").exists()


def test_a_label_that_stands_in_no_training_item_is_refused(searched, tmp_path):
    folder, _ = searched
    lines = [f"{n}.png,{'ab'[n % 2]},train" for n in range(40)]
    lines += [f"{n}.png,{'abc'[n % 3]},val" for n in range(40, 60)]
    (tmp_path / "bad.csv").write_text("\n".join(["image,label,split", *lines]))
    data = {"source": "table", "path": str(tmp_path / "bad.csv"), "root": str(folder), "label_separator": ";"}
    with pytest.raises(DataError, match='label "c" has no usable item in train'):
        tlsearch.run({**STUDY, "study": "bad", "data": data}, db=f"sqlite:///{tmp_path}/s.db")
    assert not (tmp_path / "s.db").exists()


def test_classification_refuses_lists_of_names_with_the_task_that_takes_them(searched, tmp_path):
    folder, _ = searched
    data = {"source": "table", "path": str(folder / "colours.csv"), "label_separator": ";"}
    with pytest.raises(DataError, match="of one class") as refused:
        tlsearch.run({**STUDY, "task": "classification", "data": data}, db=f"sqlite:///{tmp_path}/s.db")
    assert "task: multilabel" in str(refused.value.hint)


def test_strategies_of_classes_alone_are_refused(searched, tmp_path):
    with pytest.raises(SpecError, match=r"joint_training.*(source_data|classification alone)"):
        tlsearch.run({**STUDY, "strategies": ["joint_training"]}, db=f"sqlite:///{tmp_path}/s.db")
