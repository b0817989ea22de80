from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, recall_score

from tlsearch import registry
from tlsearch.cli.inference import warnings_of
from tlsearch.contracts import Backbone, Samples
from tlsearch.errors import DataError
from tlsearch.models import bundle
from tlsearch.models.evaluation import evaluate, score_samples, table_options
from tlsearch.models.model import Model
from tlsearch.records import StudyItems
from tlsearch.testing import classes

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def model() -> Model:
    """Untrained, but the same every time."""
    torch.manual_seed(0)
    network = Backbone(registry.backbone("tiny/net", weights="pretrained", image_size=None), *classes(3))
    torch.nn.init.normal_(network.head.linear.weight)
    manifest = bundle.Manifest(2, CLASSES, "tiny/net", None, {}, "fine_tune", {}, "", 0, {}, {}, {}, "")
    return Model(network.eval(), network.info.inputs, manifest, Path())


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4 + label):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def test_scores_are_those_of_the_predictions(model, folder):
    found = evaluate(model, folder)
    files = sorted(folder.rglob("*.png"))
    actual, predicted = [file.parent.name for file in files], model.predict(files)
    assert found.items == len(files) == 15
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    recalls = recall_score(actual, predicted, labels=list(CLASSES), average=None)
    assert found.per_class == {
        name: pytest.approx(value) for name, value in zip(CLASSES, recalls, strict=True)
    }
    assert found.broken == ()


def test_classes_go_by_name_and_not_by_place(model, folder):
    whole = evaluate(model, folder)
    (folder / "ant").rename(folder.parent / "aside")
    part = evaluate(model, folder)  # bee is now the first class
    assert part.items == 11
    assert set(part.per_class) == {"bee", "cat"}
    for name in part.per_class:
        assert part.per_class[name] == whole.per_class[name]


def test_a_class_that_the_model_does_not_know(model, folder):
    for name in ("dog", "eel"):
        (folder / name).mkdir()
        Image.new("RGB", (16, 16)).save(folder / name / "a.png")
    with pytest.raises(DataError, match="doesn't know the class 'dog' and 1 more") as caught:
        evaluate(model, folder)
    assert "ant, bee, cat" in str(caught.value)


def test_a_broken_image_is_set_aside_and_named(model, folder):
    before = evaluate(model, folder)
    (folder / "cat" / "html.png").write_text("<html>")
    (folder / "ant" / "short.png").write_bytes((folder / "ant" / "0.png").read_bytes()[:200])
    found = evaluate(model, folder)
    assert found.items == 15
    assert found.metrics == before.metrics
    assert len(found.broken) == 2
    assert any("html.png" in line and "HTML" in line for line in found.broken)
    assert any("short.png" in line for line in found.broken)


def test_nothing_readable(model, tmp_path):
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "a.png").write_text("<html>")
    with pytest.raises(DataError):
        evaluate(model, tmp_path)
    with pytest.raises(DataError, match="There is no"):
        evaluate(model, tmp_path / "none")


def test_a_table(model, folder, tmp_path):
    rows = [
        f"data/{file.parent.name}/{file.name},{file.parent.name}" for file in sorted(folder.rglob("*.png"))
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["image,label", *rows]))
    assert evaluate(model, table) == evaluate(model, folder)


def arrays(splits: list[str] | None) -> Samples:
    items = list(np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    names = [f"item {index}" for index in range(9)]
    return Samples(items, [index % 3 for index in range(9)], CLASSES, names, splits)


def test_one_split_of_those_that_the_data_names(model):
    samples = arrays(["train"] * 5 + ["test"] * 4)
    assert score_samples(model, samples).items == 9
    assert score_samples(model, samples, split="test").items == 4
    with pytest.raises(DataError, match='No item is in the split "val"') as caught:
        score_samples(model, samples, split="val")
    assert "test, train" in str(caught.value)
    with pytest.raises(DataError, match="names no splits"):
        score_samples(model, arrays(None), split="test")


def test_items_that_the_model_has_seen_are_counted_and_warned_of(model, folder, tmp_path):
    files = sorted(folder.rglob("*.png"))
    hashes = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    splits = ("train",) * 6 + ("val",) * 3 + ("test",) * 2 + ("train",)
    known = StudyItems(tuple(map(str, files[:12])), hashes[:12], ("",) * 12, splits, aside=(11,))
    files[0].rename(files[0].with_name("renamed.png"))  # the content counts, not the name
    found = evaluate(model, folder, study=known)
    assert found.seen == {"train": 6, "val": 3, "test": 2}
    told = "\n".join(warnings_of(found, ("train",)))
    assert "trained on 6 of these 15 items" in told
    assert "selected on 3 of these 15 items" in told

    with Image.open(files[1]) as picture:  # the same pixels, other bytes
        picture.save(files[1], compress_level=0)
    assert evaluate(model, folder, study=known).seen == {"train": 5, "val": 3, "test": 2}
    assert "compared byte by byte" in told

    none = evaluate(model, folder, study=StudyItems((), (), (), ()))
    assert none.seen == {}
    assert warnings_of(none, ("train",)) == []
    assert "isn't known" in warnings_of(evaluate(model, folder), ("train",))[0]


def test_a_repeated_word_names_several_columns():
    words = ["label_column=age", "image_column=file", "label_column=weight", "label_column=a=b"]
    told = table_options(words)
    assert told == {"label_column": ["age", "weight", "a=b"], "image_column": "file"}
