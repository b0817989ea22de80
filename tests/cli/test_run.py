"""A search through the command line, and whether all its answers agree."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tlsearch
from tlsearch.spec import load
from tlsearch.training import sources
from tlsearch.training.items import located

pytestmark = pytest.mark.slow


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def validation(place):
    """Paths and class names of the validation split, as the study holds them."""
    with place.store() as store:
        items = store.items("tiny")
    listed = sources.listing(load(place.folder / "tiny.yaml").data)
    places = located(items, listed, "val")
    return [
        (Path(listed.samples.items[here]), items.labels[at])
        for here, at in zip(places, items.of("val"), strict=True)
    ]


def test_run_prints_one_document_and_tells_its_progress_elsewhere(finished):
    best = json.loads((finished.folder / "first.json").read_text())
    assert best["study"] == "tiny"
    progress = (finished.folder / "first.txt").read_text()
    assert "search" in progress
    assert "6/6" in progress
    assert "best" in progress
    assert "verify the winner" in progress


def test_studies_lists_the_study(finished):
    (study,) = finished.ask("studies")
    assert (study["name"], study["state"], study["metric"]) == ("tiny", "COMPLETE", "accuracy")
    assert study["counts"]["RUNNING"] == 0
    assert {p["distribution"] for p in study["plugins"]} == {"tlsearch", "tlsearch-efficientnet-lite"}
    assert study["seconds"] > 0
    assert "tiny" in finished.here("studies").stdout


def test_trials_has_every_trial_once_with_state_and_reason(finished):
    trials = finished.ask("trials", "tiny")
    searched = [trial for trial in trials if trial["role"] == "search"]
    confirmed = [trial for trial in trials if trial["role"] == "confirm"]
    assert [trial["number"] for trial in trials] == list(range(8))
    assert len(searched) == 6
    assert len(confirmed) == 2
    assert all(trial["reason"] for trial in trials)
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert {trial["strategy"] for trial in searched} == {"linear_probe", "feature_copy", "fine_tune"}
    points = {json.dumps([t["backbone"], t["strategy"], t["params"]], sort_keys=True) for t in searched}
    assert len(points) == len(searched)
    assert len({trial["freeze_depth"] for trial in searched}) > 1
    assert all(0 <= trial["freeze_depth"] <= trial["groups"] for trial in trials)
    for trial in trials:
        assert trial["finished"] >= trial["started"]
        assert trial["costs"]["seconds"] > 0


def test_trials_filters_sorts_and_prints_csv(finished):
    trials = finished.ask("trials", "tiny")
    tuned = finished.ask("trials", "tiny", "--strategy", "fine_tune", "--state", "COMPLETE")
    assert tuned == [t for t in trials if t["strategy"] == "fine_tune" and t["state"] == "COMPLETE"]
    values = [trial["value"] for trial in finished.ask("trials", "tiny", "--sort", "value", "--limit", "3")]
    ranked = sorted((trial["value"] for trial in trials if trial["value"] is not None), reverse=True)
    assert values == ranked[:3]
    rows = list(csv.DictReader(io.StringIO(finished.here("trials", "tiny", "--csv").stdout)))
    assert [(int(row["number"]), row["state"]) for row in rows] == [(t["number"], t["state"]) for t in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert json.loads(row["params"]) == trial["params"]
    (study,) = csv.DictReader(io.StringIO(finished.here("studies", "--csv").stdout))
    assert study["study"] == "tiny"
    table = finished.here("trials", "tiny").stdout
    assert table.count("efficientnet_lite/lite0") == len(trials)


def test_show_has_the_learning_curve(finished):
    trials = finished.ask("trials", "tiny", "--strategy", "fine_tune", "--state", "COMPLETE")
    shown = finished.ask("show", "tiny", trials[0]["number"])
    assert shown["trial"] == trials[0]
    assert [epoch["epoch"] for epoch in shown["epochs"]] == [1, 2]
    assert trials[0]["value"] in [epoch["value"] for epoch in shown["epochs"]]
    plain = finished.here("show", "tiny", trials[0]["number"]).stdout
    assert "learning rate" in plain


def test_best_is_the_promised_document_and_the_file_is_the_one_told_of(finished):
    best = finished.ask("best", "tiny")
    assert best == json.loads((finished.folder / "first.json").read_text())
    wanted = {"study", "trial", "strategy", "backbone", "freeze_depth", "params", "metrics", "model"}
    assert wanted <= set(best)
    assert {"val", "test"} <= set(best["metrics"])
    folder = Path(best["model"]["uri"])
    assert sha256(folder / "model.safetensors") == best["model"]["sha256"]
    assert load_file(folder / "model.safetensors")
    trial = finished.ask("show", "tiny", best["trial"])["trial"]
    assert trial["value"] == best["metrics"]["val"]["accuracy"] == best["value"]
    assert (trial["strategy"], trial["params"]) == (best["strategy"], best["params"])
    plain = finished.here("best", "tiny").stdout
    assert best["model"]["sha256"] in plain


def test_best_is_light_and_quick(finished):
    loaded = finished.modules("best", "tiny", "--json")
    assert not loaded & {"torch", "timm", "ray", "optuna", "sklearn", "pandas"}
    assert finished.fastest("best", "tiny") < 4.0


def test_questions_about_what_is_not_there(finished):
    for arguments, says in (
        (("best", "tinny"), ("tinny", "tiny")),
        (("show", "tiny", "99"), ("99",)),
        (("trials", "tiny", "--sort", "valu"), ("valu", "value")),
        (("best", "tiny", "--metric", "accurate"), ("accurate", "accuracy")),
        (("best", "tiny", "--strategy", "none"), ("none",)),
        (("predict", "tiny", "nowhere.png"), ("nowhere.png",)),
        (("backbones", "zzzz"), ("zzzz",)),
    ):
        said = finished.refused(*arguments)
        assert all(word in said for word in says), said


def test_show_is_a_study_on_one_screen(finished):
    shown = finished.here("show", "tiny").stdout
    best = finished.ask("best", "tiny")
    assert shown.startswith("tiny: complete")
    assert f"* {best['trial']} " in shown  # the winner is among the rows
    assert best["model"]["uri"] in shown.splitlines()  # on a line of its own
    assert finished.ask("show", "tiny")["best"] == best
    assert "learning curve" in finished.refused("show", "tiny", "--csv")


def test_compare_puts_two_studies_beside_each_other(finished):
    text = finished.here("compare", "tiny", "tiny").stdout
    score = f"{finished.ask('best', 'tiny')['metrics']['val']['accuracy']:.4f}"
    assert next(line for line in text.splitlines() if "val accuracy" in line).count(score) == 2
    assert len(finished.ask("compare", "tiny", "tiny")) == 2


def test_a_study_keeps_the_audit_of_its_data(finished):
    with finished.store() as store:
        kept = store.study("tiny").audit
    assert kept["items"] == 120
    assert kept["near_duplicates"]["compared"] == 36
    assert "near-duplicate in another split" not in (finished.folder / "first.txt").read_text()


def test_best_is_among_the_finalists_that_brute_force_finds(finished):
    trials = [t for t in finished.ask("trials", "tiny", "--state", "COMPLETE") if t["role"] == "search"]
    ranked = sorted(
        trials,
        key=lambda t: (-t["value"], t["metrics"]["log_loss"], t["costs"]["total_parameters"], t["number"]),
    )
    confirmed = {t["confirms"] for t in finished.ask("trials", "tiny") if t["role"] == "confirm"}
    first_of: dict[str, int] = {}
    for trial in ranked:
        first_of.setdefault(trial["strategy"], trial["number"])
    chosen = list(first_of.values())[:2]  # the best of each strategy
    if first_of["fine_tune"] not in chosen:
        chosen[1] = first_of["fine_tune"]
    assert confirmed == set(chosen)
    assert finished.ask("best", "tiny")["trial"] in confirmed
    heads = [trial for trial in ranked if trial["strategy"] == "linear_probe"]
    assert finished.ask("best", "tiny", "--strategy", "linear_probe")["value"] == heads[0]["value"]
    by_loss = min(trials, key=lambda t: t["metrics"]["log_loss"])
    assert finished.ask("best", "tiny", "--metric", "log_loss")["trial"] == by_loss["number"]


def test_no_weights_are_left_but_those_that_are_told_of(finished):
    kept = {t["artifact"]["uri"] for t in finished.ask("trials", "tiny") if t["artifact"]}
    model = finished.ask("best", "tiny")["model"]["uri"]
    files = {str(path) for path in finished.artifacts.rglob("*") if path.is_file()}
    assert files == kept | {f"{model}/model.safetensors", f"{model}/bundle.json"}
    for trial in finished.ask("trials", "tiny"):
        if trial["artifact"]:
            assert sha256(Path(trial["artifact"]["uri"])) == trial["artifact"]["sha256"]


def test_predict_evaluate_and_the_stored_score_agree(finished, tmp_path):
    best = finished.ask("best", "tiny")
    held_out = validation(finished)
    for path, name in held_out:
        target = tmp_path / "held_out" / name / f"{path.parent.name}-{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    evaluated = finished.ask("evaluate", "tiny", tmp_path / "held_out")
    assert evaluated["items"] == len(held_out)
    assert evaluated["metrics"]["accuracy"] == pytest.approx(best["metrics"]["val"]["accuracy"], abs=1e-6)
    assert evaluated["metrics"]["log_loss"] == pytest.approx(best["metrics"]["val"]["log_loss"], abs=1e-3)
    predictions = finished.ask("predict", "tiny", tmp_path / "held_out")
    right = [Path(p["item"]).parent.name == p["label"] for p in predictions]
    assert sum(right) / len(right) == pytest.approx(evaluated["metrics"]["accuracy"])
    for prediction in predictions:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert prediction["probability"] == max(prediction["probabilities"].values())
    # The same through Python, and from the bundle's folder instead of the study's name.
    model = tlsearch.load(best["model"]["uri"])
    assert model.predict([p["item"] for p in predictions]) == [p["label"] for p in predictions]
    plain = finished.here("predict", best["model"]["uri"], predictions[0]["item"]).stdout
    assert plain.startswith(f"{predictions[0]['item']}: {predictions[0]['label']} ")


def test_the_winner_is_calibrated_on_validation_and_no_class_turns_with_it(finished):
    best = finished.ask("best", "tiny")
    description = json.loads((Path(best["model"]["uri"]) / "bundle.json").read_text())
    calibration = description["calibration"]
    held_out = [path for path, _ in validation(finished)]
    assert calibration["items"] == len(held_out)
    assert calibration["test_items"] > 0
    assert calibration["temperature"] > 0
    assert calibration["log_loss_before"] == pytest.approx(best["metrics"]["val"]["log_loss"], abs=1e-3)
    model = tlsearch.load(best["model"]["uri"])
    logits = model.logits(held_out)
    scaled = np.exp(logits / calibration["temperature"])
    shares = model.predict_proba(held_out)
    np.testing.assert_allclose(shares, scaled / scaled.sum(axis=1, keepdims=True), atol=1e-5)
    assert (shares.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_export_is_tried_on_the_studys_validation_images(finished, tmp_path):
    done = finished.here("export", "tiny", "-o", tmp_path / "m", "--format", "onnx", "--json")
    (told,) = json.loads(done.stdout)
    assert told["checked"]["source"] == "validation images"
    assert told["checked"]["pictures"] == 16
    assert told["checked"]["difference"] < 1e-3
    assert "model.onnx" in told["files"]
    again = finished.here("export", "tiny", "-o", tmp_path / "m", "--format", "onnx", code=2)
    assert "--overwrite" in again.stderr


def test_evaluate_takes_a_table_of_any_columns_and_predict_prints_csv(finished, tmp_path):
    held_out = validation(finished)[:12]
    rows = [("file", "kind"), *((str(path.relative_to(finished.images)), name) for path, name in held_out)]
    table = tmp_path / "labels.csv"
    table.write_text("".join(f"{file},{kind}\n" for file, kind in rows))
    keys = ["image_column=file", "label_column=kind", f"root={finished.images}"]
    words = [word for key in keys for word in ("--set", key)]
    evaluated = finished.ask("evaluate", "tiny", table, *words)
    printed = finished.here("predict", "tiny", "--csv", *[path for path, _ in held_out]).stdout
    predicted = list(csv.DictReader(io.StringIO(printed)))
    right = [row["label"] == name for row, (_, name) in zip(predicted, held_out, strict=True)]
    assert evaluated["items"] == 12
    assert evaluated["metrics"]["accuracy"] == pytest.approx(sum(right) / 12)
    for row in predicted:
        assert float(row[f"probability of {row['label']}"]) == pytest.approx(float(row["probability"]))
    said = finished.here("evaluate", "tiny", table, "--set", "label_colum=kind", code=2).stderr
    assert 'Did you mean "label_column"' in said


def test_predict_names_what_it_cannot_read_and_goes_on(finished, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"<html>not found</html>")
    good = next((images / "disc").iterdir())
    told = json.loads(finished.here("predict", "tiny", broken, good, "--json", code=2).stdout)
    assert told[0]["error"]
    assert told[0]["label"] is None
    assert told[1]["label"]


def test_predict_saves_labelled_pictures_and_tells_what_is_no_picture(finished, images, tmp_path):
    page, torn = tmp_path / "page.png", tmp_path / "torn.png"
    page.write_bytes(b"<html>not found</html>")
    good = sorted((images / "disc").iterdir())[:3]
    torn.write_bytes(good[0].read_bytes()[:200])
    out = tmp_path / "out"
    done = finished.here("predict", "tiny", page, torn, *good, "--save", out, code=2)
    lines = done.stdout.splitlines()
    assert ": no picture: " in lines[0]
    assert ": unreadable: " in lines[1]
    assert f"Wrote 3 pictures and a contact sheet to {out}" in done.stderr
    assert {path.suffix for path in out.iterdir()} == {".jpg"}
    assert len(list(out.iterdir())) == 4
    assert "isn't empty" in finished.refused("predict", "tiny", *good, "--save", out)


def test_running_again_changes_nothing_even_if_the_data_has_moved(finished, tmp_path):
    before = finished.ask("trials", "tiny")
    model = finished.ask("best", "tiny")
    files = {path: path.stat().st_mtime_ns for path in finished.artifacts.rglob("*")}
    moved = tmp_path / "elsewhere"
    moved.symlink_to(finished.images, target_is_directory=True)
    done = finished.here("run", finished.folder / "tiny.yaml", "--set", f"data.path={moved}", "--json")
    again = json.loads(done.stdout)
    assert "start workers" not in done.stderr
    assert again == model
    assert finished.ask("trials", "tiny") == before
    assert {path: path.stat().st_mtime_ns for path in finished.artifacts.rglob("*")} == files


def test_a_study_that_differs_is_refused_and_told_in_what(finished):
    before = finished.ask("studies")
    said = finished.here("run", finished.folder / "tiny.yaml", "--set", "budget.epochs=3", code=2).stderr
    assert "budget.epochs" in said
    assert "another name" in said
    assert finished.ask("studies") == before


def test_a_damaged_model_is_refused_and_made_anew(finished):
    best = finished.ask("best", "tiny")
    stored = load_file(Path(best["model"]["uri"]) / "model.safetensors")
    before = {name: tensor.clone() for name, tensor in stored.items()}  # the file is about to change
    weights = Path(best["model"]["uri"]) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    image = next((finished.images / "disc").iterdir())
    finished.here("predict", "tiny", image, code=2)
    done = finished.here("run", finished.folder / "tiny.yaml", "--json")
    assert "start workers" not in done.stderr
    again = json.loads(done.stdout)
    assert again["trial"] == best["trial"]
    # The test set was opened once more, which the description tells; the model is the same.
    openings = [one["metrics"]["handed_out"].pop("test_openings") for one in (best, again)]
    assert openings[1] == openings[0] + 1
    assert again["metrics"] == best["metrics"]
    after = load_file(Path(again["model"]["uri"]) / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sha256(Path(again["model"]["uri"]) / "model.safetensors") == again["model"]["sha256"]
    assert tlsearch.load(again["model"]["uri"]).predict([image])


def test_more_trials_go_on_where_it_was_left(finished):
    before = finished.ask("trials", "tiny")
    finished.here("run", finished.folder / "tiny.yaml", "--trials", "8")
    trials = finished.ask("trials", "tiny")
    searched = [trial for trial in trials if trial["role"] == "search"]
    assert len(searched) == 8
    assert len({trial["number"] for trial in trials}) == len(trials)

    def run_once(trial):
        return {key: value for key, value in trial.items() if key != "artifact"}

    assert [run_once(trial) for trial in trials[: len(before)]] == [run_once(trial) for trial in before]
    points = {json.dumps([t["strategy"], t["params"]], sort_keys=True) for t in searched}
    assert len(points) == 8
    (study,) = finished.ask("studies")
    assert study["spec"]["budget"]["trials"] == 8
    assert study["state"] == "COMPLETE"
    model = finished.ask("best", "tiny")["model"]
    assert sha256(Path(model["uri"]) / "model.safetensors") == model["sha256"]
    assert len(list(Path(model["uri"]).parent.glob("model-*"))) == 1
