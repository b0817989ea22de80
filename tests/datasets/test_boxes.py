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


def test_shares_where_pixels_should_be_are_told_of(voc):
    for side, share in (("xmin", 0.1), ("ymin", 0.2), ("xmax", 0.7), ("ymax", 1)):
        change(voc / "annotations/000.xml", (f"<{side}>.*?<", f"<{side}>{share}<"))
    (broken,) = load(voc).broken
    assert "is in shares of the sides; right are pixels" in broken


@pytest.mark.parametrize("left", ["annotations", "nothing but a list"])
def test_a_json_file_that_lacks_something_is_taken_for_cocos_and_says_so(coco, left):
    (path,) = coco.rglob("*.json")
    document = json.loads(path.read_text())
    del document["categories"]
    path.write_text(json.dumps(document if left == "annotations" else document["annotations"]))
    assert registry.dataset("boxes").suits(coco)
    with pytest.raises(DataError, match="needs lists of images, annotations and categories"):
        load(coco)


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


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return document


@pytest.mark.parametrize(
    ("image", "annotation"), [(int, str), (float, int), ("img_{}".format, "img_{}".format)]
)
def test_ids_of_json_are_the_same_however_they_are_written(coco, image, annotation):
    before = load(coco)
    (path,) = coco.glob("**/*.json")

    def change(document):
        for one in document["images"]:
            one["id"] = image(one["id"])
        for one in document["annotations"]:
            one["image_id"] = annotation(one["image_id"])
        for one in document["categories"]:
            one["id"] = str(one["id"])

    edit(path, change)
    found = load(coco)
    assert found.broken == ()
    assert np.array_equal(found.targets, before.targets)


@pytest.mark.parametrize(
    "written", ["C:\\photos\\{}", "https://example.org/{}?rf=3", "train2017/{}", "./images/{}"]
)
def test_pictures_of_json_are_found_by_their_names(coco, written):
    (path,) = coco.glob("**/*.json")

    def change(document):
        for one in document["images"]:
            one["file_name"] = written.format(one["file_name"].rpartition("/")[2])

    edit(path, change)
    found = load(coco)
    assert (len(found.items), found.broken) == (9, ())


def test_json_that_is_damaged_is_told_of(coco):
    (path,) = coco.rglob("*.json")
    path.write_text(path.read_text()[:200])
    assert registry.dataset("boxes").suits(coco)
    with pytest.raises(DataError, match=r"is no JSON"):
        load(coco)


def test_json_that_names_things_twice(coco):
    (path,) = coco.glob("**/*.json")
    text = path.read_text()

    def same_file(document):
        document["images"][1]["file_name"] = document["images"][0]["file_name"]

    edit(path, same_file)
    assert any("as several images" in why for why in load(coco).broken)
    path.write_text(text)
    edit(path, lambda document: document["categories"][1].update(name=document["categories"][0]["name"]))
    assert any("2 classes are called" in note for note in load(coco).notes)
    path.write_text(text)
    edit(path, lambda document: document["categories"][1].update(id=document["categories"][0]["id"]))
    with pytest.raises(DataError, match="several categories of id"):
        load(coco)
    path.write_text(text)
    path.with_name("keypoints.json").write_text(text)
    with pytest.raises(DataError, match=r"several of the files .*keypoints\.json") as caught:
        load(coco)
    assert "annotations: " in caught.value.hint
    assert len(load(coco, annotations=path.relative_to(coco).as_posix()).items) == 9


def test_the_reason_is_told_where_no_box_is_left(coco):
    (path,) = coco.glob("**/*.json")
    text = path.read_text()
    edit(path, lambda document: [one.update(image_id=None) for one in document["annotations"]])
    with pytest.raises(DataError, match=r"no picture has a box.*problems: .* is of image none"):
        load(coco)
    path.write_text(text)
    edit(path, lambda document: [one.update(iscrowd=1) for one in document["annotations"]])
    with pytest.raises(DataError, match=r"no picture has a box.*of crowds"):
        load(coco)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("0 .1 .1 .2 .1 .2 .2\n", "line 1 is an outline, no box"),
        ("0 .5 .5 .2 .2 .9\n", "line 1 is no box: it has 6 numbers"),
        ("0.0 .5 .5 .2 .2\n", 'line 1 begins with "0.0"'),
        ("a cat on a mat\n", 'line 1 begins with "a"'),
        ("", "no picture has a box"),
        ("0 48 36 20 20\n", "is in pixels; right are shares of the sides"),
    ],
)
def test_files_of_text_that_all_hold_no_boxes_are_told_of(yolo, lines, reason):
    for path in (yolo / "labels").glob("0*.txt"):
        path.write_text(lines)
    assert registry.dataset("boxes").suits(yolo)
    with pytest.raises(DataError, match=re.escape(reason)):
        load(yolo)


def test_outlines_among_the_pictures_are_told_of_and_other_texts_are_not_taken_for_boxes(yolo):
    for path in (yolo / "labels").glob("0*.txt"):
        path.write_text("0 .1 .1 .2 .1 .2 .2\n")
        path.rename(yolo / "images" / path.name)
    assert registry.dataset("boxes").suits(yolo / "images")
    with pytest.raises(DataError, match="line 1 is an outline, no box"):
        load(yolo / "images")
    for path in (yolo / "images").glob("*.txt"):
        path.write_text("2 cats on 1 mat, 3 days old\n")
    assert not registry.dataset("boxes").suits(yolo / "images")


def test_files_that_name_the_classes_wrongly_are_not_passed_over(yolo):
    for path in (*yolo.glob("*.yaml"), *yolo.glob("**/classes.txt")):
        path.unlink()
    data = yolo / "data.yaml"
    for content, reason in (
        (b"names: cat dog\n", "names is 'cat dog'"),
        ("names: [café, dog]\n".encode("latin-1"), "no text in UTF-8"),
        (b"names: [a\n", "can't be read for the names"),
    ):
        data.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            load(yolo)
    data.rename(yolo / "hyperparameters.yaml")
    assert load(yolo).spec.names == ("class 0", "class 1")
    data.write_text("names: [cat, cat]\n")
    assert '2 classes are called "cat" and are one' in load(yolo).notes


def test_classes_of_a_study_file_may_be_a_list_and_numbers(yolo):
    assert load(yolo, classes=["cat", "dog"]).spec.names == ("cat", "dog")
    assert load(yolo, classes={0: 7, "1": "yes"}).spec.names == ("7", "yes")
    for wrong in ("cat", {0: None}, {"cat": 0}):
        with pytest.raises(ValueError, match="classes"):
            load(yolo, classes=wrong)
