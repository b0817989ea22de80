"""What is found in the data before a search, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.identified import identified
from tlsearch import registry
from tlsearch.contracts import Samples
from tlsearch.contracts.images import ImageInput
from tlsearch.tasks.classification import Classification
from tlsearch.training import audit, data, duplicates
from tlsearch.training.arrays import ArrayStore

INPUTS = ImageInput(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def noise(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))


def samples_of(items: list[np.ndarray], labels: list[int], splits: list[str] | None = None) -> Samples:
    names = [f"{index}.png" for index in range(len(items))]
    return Samples(items, labels, ("ant", "bee"), names, splits)


@pytest.fixture
def look(tmp_path: Path):
    def run(samples: Samples, *, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
        store = ArrayStore(tmp_path / "items")
        listed = identified(samples, Classification(), max_broken=0.2)
        encoded = data.make_data(listed, INPUTS, store, seed=0)
        return audit.examine(samples, encoded, store, metric=metric, hashes=listed.hashes, **more)

    return run


def test_good_data_gets_no_word(look):
    found = look(samples_of(noise(60), [0, 1] * 30))
    assert audit.sentences(found) == []
    assert (found["items"], found["classes"]) == (60, 2)
    assert sum(found["counts"]["val"].values()) == 12
    assert found["near_duplicates"]["count"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_pictures_that_are_nearly_the_same_are_named_with_their_labels(look):
    items = noise(40)
    items += [(items[0] * 0.9).astype(np.uint8), (items[1] * 0.9).astype(np.uint8)]
    splits = ["train"] * 30 + ["val"] * 5 + ["test"] * 5 + ["val", "test"]
    found = look(samples_of(items, [0, 1] * 20 + [0, 0], splits))
    alike = found["near_duplicates"]
    assert (alike["count"], alike["items"], alike["other_label"]) == (2, 2, 1)
    assert alike["between"] == {"train-val": 1, "train-test": 1}
    first = next(example for example in alike["examples"] if example["item"] == "41.png")
    assert (first["split"], first["label"], first["other"], first["other_label"]) == (
        "test",
        "ant",
        "1.png",
        "bee",
    )
    (line,) = audit.sentences(found)
    assert (
        "2 pictures of val and test with a near-duplicate in another split, 1 of them under another label"
        in line
    )
    assert ".png (" in line


def test_what_is_costly_is_found_once(look, monkeypatch):
    samples = samples_of(noise(60), [0, 1] * 30)
    first = look(samples)
    monkeypatch.setattr(duplicates, "find", None)
    assert look(samples) == first
    with pytest.raises(TypeError):
        look(samples_of(noise(60, seed=1), [0, 1] * 30))


@pytest.mark.parametrize(
    ("few", "metric", "proposed"),
    [
        (15, "accuracy", "balanced_accuracy"),
        (15, "log_loss", "balanced_accuracy"),
        (15, "macro_f1", None),
        (15, "balanced_accuracy", None),
        (30, "accuracy", None),
    ],
)
def test_a_metric_that_counts_classes_alike_is_proposed(look, few, metric, proposed):
    found = look(samples_of(noise(75 + few), [0] * 75 + [1] * few), metric=metric)
    assert found["imbalance"]["proposed_metric"] == proposed
    assert found["imbalance"]["largest"] == "ant"
    lines = audit.sentences(found)
    assert len(lines) == (proposed is not None)
    if proposed:
        assert '"ant" has 5 times the items of "bee"' in lines[0]
        assert "an accuracy of 0.83: objective: {metric: balanced_accuracy}" in lines[0]


def test_tiny_classes_plain_pictures_and_clashes(look):
    items = noise(34)
    items[3] = np.full((16, 16, 3), 7, np.uint8)
    items[32] = items[4]
    found = look(samples_of(items, [0] * 28 + [1] * 6), metric="macro_f1")
    assert found["tiny_classes"] == {"count": 1, "examples": [["bee", 6]]}
    assert found["near_duplicates"]["plain"] == {"count": 1, "examples": ["3.png"]}
    assert found["clashes"] == {"count": 1, "examples": [["4.png", "32.png"]]}
    plain, tiny = audit.sentences(found)
    assert "1 picture is of one plain colour, such as 3.png" in plain
    assert '1 class has fewer than 10 items, such as "bee" (6)' in tiny


def test_test_items_that_stand_in_the_source_data(look):
    items = noise(40)
    samples = samples_of(items, [0, 1] * 20, ["train"] * 30 + ["val"] * 5 + ["test"] * 5)
    hashes = identified(samples, Classification()).hashes
    source = {hashes[0]: ["trained on"], hashes[38]: ["big/1.png", "big/2.png"]}
    found = look(samples, source=source)
    assert found["source_copies"] == {"count": 1, "examples": [["38.png", "big/1.png"]]}
    assert (
        "1 item of val and test also in source_data, such as 38.png (big/1.png)" in audit.sentences(found)[0]
    )


def test_broken_items_are_listed(look):
    items: list[Any] = noise(40)
    items[7] = np.zeros((0, 3), np.uint8)
    found = look(samples_of(items, [0, 1] * 20))
    assert found["broken"]["count"] == 1
    assert found["broken"]["examples"][0].startswith("7.png: ")


def test_items_that_are_no_pictures_are_not_compared(tmp_path):
    samples = samples_of(noise(40), [0, 1] * 20)
    store = ArrayStore(tmp_path / "items")
    encoded = data.make_data(identified(samples, Classification()), INPUTS, store, seed=0)
    tokens = replace(encoded, array=np.zeros((40, 7), np.int64))
    found = audit.examine(samples, tokens, store, metric="accuracy")
    assert found["near_duplicates"] is None
    assert audit.sentences(found) == []


SPLITS = ["train"] * 20 + ["val"] * 10 + ["test"] * 10


@pytest.mark.parametrize(
    ("task", "targets", "words", "metric", "value"),
    [
        ("classification", ["bee"] * 15 + ["ant"] * 25, 'always answering "bee"', "accuracy", 0.0),
        (
            "classification",
            ["ant"] + ["bee"] * 35 + ["ant"] * 4,
            'always answering "bee"',
            "balanced_accuracy",
            0.5,
        ),
        (
            "regression",
            [1.0] * 12 + [9.0] * 8 + [1.0] * 10 + [2.0, 4.0] * 5,
            "the median",
            "mae",
            pytest.approx(2.0),
        ),
        (
            "multilabel",
            [["a"], ["a", "b"]] * 16 + [["a"], ["b"]] * 4,
            "how common each label is",
            "map",
            pytest.approx(0.55),
        ),
        (
            *("segmentation", [np.tri(8, 8, k=number % 3, dtype=np.uint8) for number in range(40)]),
            *('all of every picture is "class 1"', "mean_iou"),
            pytest.approx(0.33, abs=0.02),
        ),
        ("detection", [[{"label": "cell", "box": [0.2, 0.2, 0.6, 0.6]}]] * 40, None, "map", None),
    ],
)
def test_one_answer_for_all_items_is_what_scores_are_read_beside(
    task, targets, words, metric, value, tmp_path
):
    learned = registry.task(task)
    names = [f"{index}.png" for index in range(40)]
    samples = Samples(noise(40), targets, names=names, splits=SPLITS, columns=("x",))
    listed = identified(samples, learned)
    store = ArrayStore(tmp_path / "items")
    made = data.make_data(listed, INPUTS, store, seed=0)
    found = audit.examine(listed.samples, made, store, metric=metric)["baseline"]
    if words is None:
        assert found is None, "no boxes are right for all pictures"
        return
    assert words in found["words"]
    assert found["scores"]["test"][metric] == value
    assert set(found["scores"]) == {"val", "test"}
