from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.boxes import HIGH, WIDE, composites, write
from tests.masks import write as write_masks
from tlsearch import registry
from tlsearch.errors import DataError
from tlsearch.testing import DatasetContract


def load(path, **options):
    source = registry.dataset("boxes")
    return source.load(source.options.model_validate({"path": str(path), **options}))


@pytest.fixture
def voc(tmp_path):
    return write(tmp_path / "data", 9)


@pytest.fixture
def yolo(tmp_path):
    return write(tmp_path / "data", 9, form="yolo")


@pytest.fixture
def coco(tmp_path):
    return write(tmp_path / "data", 9, form="coco")


def change(path, *pairs):
    text = path.read_text()
    for pattern, new in pairs:
        text, count = re.subn(pattern, new, text, count=1)
        assert count, pattern
    path.write_text(text)


class TestBoxes(DatasetContract):
    dataset = "boxes"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        type(self).options = {"path": str(write(tmp_path / "data", 40))}


@pytest.mark.parametrize("form", ["voc", "coco", "yolo"])
def test_the_same_boxes_of_each_format(tmp_path, form):
    found = load(write(tmp_path / "data", 9, form=form))
    assert found.broken == ()
    assert found.names == [f"images/{number:03d}.jpg" for number in range(9)]
    assert found.spec.names == ("one", "zero")
    truth = [boxes for _, boxes in composites(9)]
    assert found.targets.shape == (9, 2, 5)
    for rows, boxes in zip(found.targets, truth, strict=True):
        own = rows[rows[:, 0] >= 0]
        wanted = np.array([(1 - kind, *box) for kind, *box in boxes]).reshape(-1, 5)
        assert np.allclose(own * [1, WIDE, HIGH, WIDE, HIGH], wanted, atol=1e-3)
    assert any("1 picture without any object" in note for note in found.notes)


def test_a_box_out_of_the_picture_breaks_its_item_and_one_by_rounding_is_clipped(voc):
    change(voc / "annotations/000.xml", ("<xmax>.*?<", "<xmax>150<"))
    change(voc / "annotations/001.xml", ("<xmin>.*?<", "<xmin>-1<"))
    found = load(voc)
    (broken,) = found.broken
    assert re.fullmatch(
        r"images/000.jpg: the box of \w+ at \(.*150, \d+\) reaches out of the picture of 96 x 72 pixels",
        broken,
    )
    assert any("1 box reached out" in note for note in found.notes)
    assert found.targets.min() >= -1


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (("<xmax>.*?<", "<xmax>0<"), "has no area"),
        (("<xmax>.*?<", "<xmax>nan<"), "xmax is nan"),
        (("<xmax>.*?<", "<xmax>wide<"), '"wide", no number'),
        (("<xmax>.*?</xmax>", ""), "has no bndbox/xmax"),
        (("<name>.*?<", "<name> <"), "object 1 has no name"),
        (("<width>96<", "<width>960<"), "its annotation is of 960 x 72 pixels, and the picture has 96 x 72"),
        (("<annotation>", "<annotation><"), "is no XML"),
        (("^", '<!DOCTYPE a [<!ENTITY b "c">]>'), "declares a document type or entities"),
    ],
)
def test_what_is_wrong_in_xml(voc, pair, told):
    change(voc / "annotations/002.xml", pair)
    (broken,) = load(voc).broken
    assert broken.startswith("images/002.jpg: ")
    assert told in broken


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2 0.5 0.5 0.1 0.1", "line 1 is of class 2; classes are 0 (zero), 1 (one)"),
        ("0 0.5 0.5 nan 0.1", "line 1 (zero) is nan"),
        ("0 0.5 0.5 0.1", "line 1 is no box: it has 4 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3", "line 1 is an outline, no box"),
        ("0 0.5 0.5 0 0.1", "has no area"),
        ("0 0.95 0.5 0.3 0.1", "reaches out of the picture"),
        ("cat 0.5 0.5 0.1 0.1", 'line 1 begins with "cat"'),
    ],
)
def test_what_is_wrong_in_text(yolo, line, told):
    (yolo / "labels/002.txt").write_text(line)
    (broken,) = load(yolo).broken
    assert told in broken


def test_names_of_classes_in_text(yolo):
    assert load(yolo, classes={"0": "a", "1": "b"}).spec.names == ("a", "b")
    (yolo / "data.yaml").unlink()
    found = load(yolo)
    assert found.spec.names == ("class 0", "class 1")
    assert any("called by number" in note for note in found.notes)
    (yolo / "classes.txt").write_text("null\neins\n")
    assert load(yolo).spec.names == ("eins", "null")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"category_id": 99}, "annotation 0 is of category 99, which the file doesn't list"),
        ({"image_id": 99}, "annotation 0 is of image 99, which the file doesn't list"),
        ({"bbox": [1, 2, 3]}, "has no bbox"),
        ({"bbox": [1, 2, float("nan"), 3]}, "bbox is nan"),
        ({"bbox": [10, 10, 0, 5]}, "has no area"),
    ],
)
def test_what_is_wrong_in_json(coco, changed, told):
    document = json.loads((coco / "annotations.json").read_text())
    document["annotations"][0] |= changed
    (coco / "annotations.json").write_text(json.dumps(document))
    (broken,) = load(coco).broken
    assert told in broken


def test_crowds_are_left_out_with_a_word(coco):
    document = json.loads((coco / "annotations.json").read_text())
    document["annotations"][0]["iscrowd"] = 1
    (coco / "annotations.json").write_text(json.dumps(document))
    assert any("1 box of crowds" in note for note in load(coco).notes)


def test_pictures_and_annotations_without_each_other(voc):
    (voc / "annotations/001.xml").unlink()
    (voc / "images/005.jpg").unlink()
    assert set(load(voc).broken) == {
        "images/001.jpg: has no annotation, which would be annotations/001.xml",
        "annotations/005.xml: an annotation without a picture",
    }
    found = load(voc, unannotated="empty")
    assert found.broken == ("annotations/005.xml: an annotation without a picture",)
    assert (found.targets[found.names.index("images/001.jpg"), :, 0] == -1).all()


def test_a_picture_that_json_lists_and_is_not_there(coco):
    (coco / "images/003.jpg").unlink()
    assert load(coco).broken == ("annotations.json: there is no picture 003.jpg in images/",)


def test_no_box_at_all(tmp_path):
    data = write(tmp_path / "data", 9)
    for path in (data / "annotations").iterdir():
        path.write_text(re.sub("<object>.*</object>", "", path.read_text()))
    with pytest.raises(DataError, match="no picture has a box"):
        load(data)


def test_a_folder_without_annotations(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    with pytest.raises(DataError, match="no pictures with annotations of boxes"):
        load(tmp_path)


def test_splits_of_folders_and_of_lists(tmp_path, voc):
    for number, split in enumerate(("train", "valid")):
        write(tmp_path / "split" / split, 6, form="coco", seed=number)
    assert sorted(set(load(tmp_path / "split").splits)) == ["train", "val"]
    (voc / "ImageSets/Main").mkdir(parents=True)
    for split, numbers in (("train", range(4)), ("val", range(4, 8)), ("trainval", range(8))):
        lines = [f"{number:03d}" for number in numbers]
        (voc / f"ImageSets/Main/{split}.txt").write_text("\n".join(lines))
    found = load(voc)
    assert found.splits == ["train"] * 4 + ["val"] * 4
    assert any("1 picture that no list" in note for note in found.notes)
    (voc / "ImageSets/Main/val.txt").write_text("000\n004")
    with pytest.raises(DataError, match=r"names 000 in train and in val"):
        load(voc)


def test_annotations_beside_their_pictures(voc):
    for path in (voc / "annotations").iterdir():
        path.rename(voc / "images" / path.name)
    (voc / "annotations").rmdir()
    assert len(load(voc).items) == 9
    assert len(load(voc / "images").items) == 9


def test_which_paths_suit(voc, tmp_path):
    boxes, masks = (type(registry.dataset(name)) for name in ("boxes", "masks"))
    pairs = write_masks(tmp_path / "pairs", 4)
    (pairs / "masks").rename(pairs / "annotations")
    assert boxes.suits(voc)
    assert not masks.suits(voc)
    assert masks.suits(pairs)
    assert not boxes.suits(pairs)
    assert not boxes.suits(voc / "annotations")
