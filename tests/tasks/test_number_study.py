"""A study of numbers in a table: searched, predicted, scored, looked at and exported."""

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
from typer.testing import CliRunner

import tlsearch
from tests.one_process import one_process, student_of, verify_here
from tests.tiny.tiny_looking import drawn_data, drawn_figures
from tlsearch import registry
from tlsearch.cli.app import app
from tlsearch.errors import DataError, SpecError
from tlsearch.models.evaluation import evaluate
from tlsearch.models.export.write import export
from tlsearch.reports import html
from tlsearch.reports.answer import answer
from tlsearch.reports.evidence import gather

STUDY = {
    "study": "levels",
    "task": "regression",
    "data": {"source": "table", "label_column": ["level", "weight"], "split": {"val": 0.2, "test": 0.2}},
    "backbones": ["tiny/net"],
    "strategies": ["linear_probe", "feature_copy", "fine_tune"],
    "budget": {"trials": 8, "epochs": 3},
    "search": {"finalists": 2, "confirm_seeds": 1, "members": 2},
}


def pictures(folder: Path) -> Path:
    """Grey pictures with how light they are, as a number in thousands, and how heavy, one row without."""
    rng = np.random.default_rng(0)
    with (folder / "levels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "level", "weight"])
        for number in range(90):
            noise = rng.integers(0, 30, (16, 16, 3))
            Image.fromarray((2 * number + noise).astype(np.uint8)).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", "nan" if number == 40 else 1000 + number, number % 3 + 0.5])
    return folder / "levels.csv"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    table = pictures(folder)
    tiny = str(Path(__file__).parents[1] / "tiny")
    sys.path.append(tiny)
    registry.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLSEARCH_CACHE", str(folder / "cache"))
        study = {**STUDY, "data": {**STUDY["data"], "path": str(table)}}
        with one_process(verify=verify_here), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            result = tlsearch.run(study, db=f"sqlite:///{folder}/s.db", artifacts=folder / "artifacts")
    assert any('40.png: no target ("nan")' in str(warning.message) for warning in told)
    yield folder, result
    sys.path.remove(tiny)
    registry.forget()


def test_every_strategy_learns_it_and_the_least_error_wins(searched):
    folder, _ = searched
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        trials = studies.store.trials("levels")
        best = studies.best("levels")
    assert all(trial.state == "COMPLETE" for trial in trials), [trial.reason for trial in trials]
    assert {trial.strategy for trial in trials} == {"linear_probe", "feature_copy", "fine_tune"}
    assert best.metric == "mae"
    assert best.metrics["test"]["mae"] < 8, "a mean of two columns: the median of one is off by 22"
    assert best.metrics["test"]["mae_low"] < best.metrics["test"]["mae"] < best.metrics["test"]["mae_high"]


def test_best_and_the_report_say_how_sure_the_error_is(searched):
    folder, _ = searched
    database = f"sqlite:///{folder}/s.db"
    told = CliRunner().invoke(app, ["best", "levels", "--db", database], catch_exceptions=False).stdout
    assert re.search(r"test mae +[\d.]+ \(95% interval [\d.]+ to [\d.]+: 17 items\)", told), told
    page = html.write(database, "levels", folder / "sure.html").read_text()
    assert re.search(r'data-key="metric-interval">[\d.]+ to [\d.]+<', page)
    sentence = (
        r'class="headline">Mean absolute error of <strong>[\d.]+</strong> on 17 items .* expect [\d.]+ to'
    )
    assert re.search(sentence, page)


def test_predictions_are_in_the_users_unit_with_intervals(searched):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    dark, light = model.describe([folder / "10.png", folder / "80.png"])
    assert set(dark) == {"item", "values", "intervals", "coverage", "error"}
    assert 990 < dark["values"]["level"] < light["values"]["level"] < 1100
    low, high = light["intervals"]["level"]
    assert low < light["values"]["level"] < high
    assert 0 < light["coverage"] <= 0.9
    alone = model.predict([folder / "10.png"])[0]
    assert alone == pytest.approx(list(dark["values"].values()), rel=1e-5)  # batches of one add up otherwise
    calibration = json.loads((Path(result.model.uri) / "bundle.json").read_text())["calibration"]
    assert 0.5 < calibration["test_coverage"] <= 1


def test_it_is_scored_on_a_table(searched):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    told = evaluate(model, folder / "levels.csv", options={"label_column": ["level", "weight"]})
    assert told.items == 89
    assert set(told.per_class) == {"level", "weight"}
    assert any("40.png" in one for one in told.broken)
    with pytest.raises(DataError, match="1 numbers for an item, and 2"):
        evaluate(model, folder / "levels.csv", options={"label_column": "level"})


def test_columns_of_the_studys_own_table_need_not_be_named_again(searched):
    folder, _ = searched
    words = ["evaluate", "levels", str(folder / "levels.csv"), "--db", f"sqlite:///{folder}/s.db"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "mae of weight" in told.output
    other = CliRunner().invoke(app, [*words, "--set", "data.label_column=level"])
    assert "1 numbers for an item, and 2" in str(other.exception)


def test_the_report_shows_its_errors(searched, browser):
    folder, _ = searched
    path = html.write(f"sqlite:///{folder}/s.db", "levels", folder / "page.html")
    assert {"predicted", "residuals", "predicted-1", "residuals-1"} <= drawn_figures(browser, path)
    page = path.read_text()
    assert "Largest errors" in page
    assert "ranges" in page
    true = re.findall(r'class="true">true ([^<]*)<', page)
    assert true
    assert all(re.fullmatch(r"10\d\d, [0-2]\.5", one) for one in true), true
    (shown,) = [figure for figure in drawn_data(page) if figure["name"] == "predicted"]
    names = [trace["name"] for trace in shown["traces"]]
    assert len(names) == len(set(names)) == 3
    lines = [trace["line"]["dash"] for trace in shown["traces"] if trace["mode"] == "lines"]
    assert len(set(lines)) == 2, "the legend tells them apart"


def test_a_runner_up_within_the_test_scores_interval_is_called_so(searched):
    folder, _ = searched
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        evidence = gather(studies.store, "levels")
    tested = evidence.model.metrics["test"]
    reach = (tested["mae_high"] - tested["mae_low"]) / 2
    first = dataclasses.replace(evidence.finalists[0], values=(3.0,))
    for apart, told in ((0.9, "within the uncertainty of the test score"), (1.1, "")):
        second = dataclasses.replace(evidence.finalists[1], values=(3.0 + apart * reach,))
        near = dataclasses.replace(evidence, finalists=[first, second])
        assert answer(near).tied == told
        page = html.render(near, html.Looked(None, "not looked", {}))
        assert ("Not certain." in page) == bool(told)
        assert "a few points" not in page, "an error has none"


def test_a_student_tells_numbers_as_its_teacher_does(searched, tmp_path):
    folder, result = searched
    teacher = tlsearch.load(result.model.uri)
    student = student_of("levels", teacher, folder, tmp_path / "small")
    assert (student.manifest.members, student.manifest.strategy) == (1, "fine_tune")
    assert "margin" in student.manifest.calibration
    dark, light = student.predict([folder / "10.png", folder / "80.png"])
    assert 980 < dark[0] < light[0] < 1110


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_exports_agree_with_the_model(searched, tmp_path, format):
    folder, result = searched
    model = tlsearch.load(result.model.uri)
    export(model, tmp_path / "export", [format], items=[folder / "10.png", folder / "80.png"])
    done = subprocess.run(
        [sys.executable, "predict.py", str(folder / "80.png")],
        cwd=tmp_path / "export",
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "tiny"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    (one,) = model.describe([folder / "80.png"])
    assert done.stdout.startswith(f"{folder / '80.png'}: level {one['values']['level']:.5g}")
    assert "weight" in done.stdout


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("cat", "no finite numbers"),
        ("7", "usable rows of 1 class"),
        ("", "usable rows of 0 classes"),
    ],
)
def test_a_column_that_cannot_be_learned_is_refused(searched, tmp_path, cell, told):
    folder, _ = searched
    lines = [f"{folder}/{number}.png,{cell}{number if cell == 'cat' else ''}" for number in range(20)]
    (tmp_path / "bad.csv").write_text("\n".join(["image,label", *lines]))
    data = {"source": "table", "path": str(tmp_path / "bad.csv"), "root": str(folder)}
    with pytest.raises(DataError, match=told):
        tlsearch.run({**STUDY, "study": "bad", "data": data}, db=f"sqlite:///{tmp_path}/s.db")
    assert not (tmp_path / "s.db").exists()


def test_strategies_of_classes_alone_are_refused(searched, tmp_path):
    with pytest.raises(SpecError, match=r"joint_training.*(source_data|classification alone)"):
        tlsearch.run({**STUDY, "strategies": ["joint_training"]}, db=f"sqlite:///{tmp_path}/s.db")
