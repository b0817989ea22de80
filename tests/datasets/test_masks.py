from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.masks import write
from tlsearch import registry
from tlsearch.errors import DataError
from tlsearch.testing import DatasetContract


def load(path, **options):
    source = registry.dataset("masks")
    return source.load(source.options.model_validate({"path": str(path), **options}))


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "data", 8)


class TestMasks(DatasetContract):
    dataset = "masks"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        type(self).options = {"path": str(write(tmp_path / "data", 8))}


def test_pairs_of_equal_names(pairs):
    found = load(pairs)
    assert found.names == [f"images/{number:03d}.jpg" for number in range(8)]
    assert found.spec.names == ("background", "class 1", "class 2")
    assert found.targets.shape == (8, 60, 60)
    assert found.broken == ()
    assert set(np.unique(found.targets[0])) == {0, 1}


def test_black_and_white_masks_are_ground_and_foreground(tmp_path):
    found = load(write(tmp_path / "data", 6, values=(0, 255, 255)))
    assert found.spec.names == ("background", "foreground")
    assert set(np.unique(found.targets)) == {0, 1}


def test_soft_edges_are_cut_and_that_is_said(tmp_path):
    data = write(tmp_path / "data", 6, values=(0, 255, 255))
    for path in (data / "masks").iterdir():
        mask = Image.open(path)
        mask.resize((480, 384), Image.Resampling.BICUBIC).save(path)
        picture = data / "images" / f"{path.stem}.jpg"
        Image.open(picture).resize((480, 384)).save(picture)
    found = load(data)
    assert found.spec.names == ("background", "foreground")
    assert "soft edges" in found.notes[0]
    assert found.spec.facts["threshold"] == 128


def test_palette_masks_are_read_by_index_and_255_is_of_no_class(pairs):
    for path in (pairs / "masks").iterdir():
        levels = np.asarray(Image.open(path)).copy()
        levels[:2] = 255
        indexed = Image.fromarray(levels).convert("P")
        indexed.putdata(levels.ravel().tolist())
        indexed.putpalette([7] * 768)
        indexed.save(path)
    found = load(pairs)
    assert found.spec.names == ("background", "class 1", "class 2")
    assert found.spec.facts["ignore"] == [255]
    assert (found.targets[:, 0] == 255).all()
    assert "255" in found.notes[0]


def test_classes_by_name(pairs):
    found = load(pairs, classes={"0": "noise", 1: "zero", 2: "one"})
    assert found.spec.names == ("noise", "zero", "one")


def test_a_value_without_a_class_breaks_its_item(pairs):
    mask = np.asarray(Image.open(pairs / "masks/003.png")).copy()
    mask[0, 0] = 9
    Image.fromarray(mask).save(pairs / "masks/003.png")
    found = load(pairs, classes={0: "noise", 1: "zero", 2: "one"})
    assert len(found.items) == 7
    (broken,) = found.broken
    assert broken.startswith("images/003.jpg: its mask holds value 9, which no class has")


def test_a_mask_of_another_size_breaks_its_item(pairs):
    Image.new("L", (60, 40)).save(pairs / "masks/002.png")
    (broken,) = load(pairs).broken
    assert broken == "images/002.jpg: the picture has 60 x 48 pixels and its mask 60 x 40"


def test_a_picture_turned_by_its_exif_fits_an_upright_mask(pairs):
    picture = Image.open(pairs / "images/002.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(pairs / "images/002.jpg", exif=exif)
    assert load(pairs).broken == ()


def test_what_has_no_partner_is_named(pairs):
    (pairs / "masks/001.png").unlink()
    (pairs / "images/005.jpg").unlink()
    assert set(load(pairs).broken) == {
        "images/001.jpg: has no mask, which would be masks/001.png",
        "masks/005.png: a mask without a picture",
    }


def test_two_masks_for_a_picture(pairs):
    Image.open(pairs / "masks/001.png").save(pairs / "masks/001_mask.png")
    (broken,) = load(pairs).broken
    assert "has several masks: 001.png, 001_mask.png" in broken


def test_colours_are_refused(pairs):
    Image.new("RGB", (60, 48), (200, 0, 0)).save(pairs / "masks/001.png")
    (broken,) = load(pairs).broken
    assert "its mask has colours (RGB)" in broken


def test_floats_are_indices_where_they_are_whole(pairs):
    levels = np.asarray(Image.open(pairs / "masks/001.png"), dtype=np.float32)
    (pairs / "masks/001.png").unlink()
    Image.fromarray(levels).save(pairs / "masks/001.tif")
    assert load(pairs).broken == ()
    levels = levels + 0.25
    Image.fromarray(levels).save(pairs / "masks/001.tif")
    (broken,) = load(pairs).broken
    assert "its mask has fractions" in broken


def test_masks_of_one_class_alone(pairs):
    for path in (pairs / "masks").iterdir():
        Image.new("L", (60, 48)).save(path)
    with pytest.raises(DataError, match="all masks are of one class alone: value 0"):
        load(pairs)


def test_a_class_that_no_mask_shows(pairs):
    with pytest.raises(DataError, match='no mask has a pixel of class "ghost" \\(3\\)'):
        load(pairs, classes={0: "noise", 1: "zero", 2: "one", 3: "ghost"})


def test_photographs_are_no_masks(pairs):
    rng = np.random.default_rng(0)
    for path in (pairs / "masks").iterdir():
        Image.fromarray(rng.integers(0, 255, (48, 60), dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match="different values"):
        load(pairs)


def test_edges_that_jpeg_blurred_are_no_classes(pairs):
    for path in (pairs / "masks").iterdir():
        drawn = Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255)
        drawn.resize((12, 12), Image.Resampling.NEAREST).resize(drawn.size, Image.Resampling.NEAREST).save(
            path.with_suffix(".jpg"), quality=90
        )
        path.unlink()
    values = {int(v) for path in (pairs / "masks").iterdir() for v in np.unique(np.asarray(Image.open(path)))}
    assert len(values) > 2
    found = load(pairs)
    assert found.spec.names == ("background", "foreground")
    assert "soft edges" in found.notes[0]


def test_a_mask_that_is_no_picture_is_told_without_words_of_python(pairs):
    (pairs / "masks/003.png").write_bytes(b"junk")
    assert load(pairs).broken == ("images/003.jpg: its mask is no known picture format",)


def test_a_folder_without_masks(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no folders of images and of masks"):
        load(tmp_path)


def test_splits_above_and_below(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "above" / split, 6)
    assert sorted(set(load(tmp_path / "above").splits)) == ["train", "val"]
    for split in ("train", "val"):
        write(tmp_path / split, 6)
        for kind in ("images", "masks"):
            (tmp_path / "below" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / split / kind).rename(tmp_path / "below" / kind / split)
    assert sorted(set(load(tmp_path / "below").splits)) == ["train", "val"]


def test_a_table(pairs):
    rows = [f"images/{n:03d}.jpg,masks/{n:03d}.png,{'train' if n < 6 else 'val'}" for n in range(8)]
    (pairs / "pairs.csv").write_text(
        "\n".join(["image,mask,split", *rows, "images/000.jpg,masks/no.png,val"])
    )
    found = load(pairs / "pairs.csv")
    assert len(found.items) == 8
    assert found.splits == ["train"] * 6 + ["val"] * 2
    assert found.broken == ("row 9 (images/000.jpg): mask: no such file",)


def test_which_paths_suit(pairs, tmp_path):
    source = type(registry.dataset("masks"))
    (tmp_path / "table.csv").write_text("image,mask\na.jpg,a.png\n")
    (tmp_path / "other.csv").write_text("image,label\na.jpg,a\n")
    assert source.suits(pairs)
    german = write(tmp_path / "daten", 4)
    (german / "images").rename(german / "Bilder")
    (german / "masks").rename(german / "Masken")
    assert source.suits(german)
    assert source.suits(tmp_path / "table.csv")
    assert not source.suits(tmp_path / "other.csv")
    assert not source.suits(pairs / "images")


def test_masks_none_of_which_can_be_used_are_named_with_the_reason(pairs):
    for path in (pairs / "masks").iterdir():
        Image.new("RGB", (60, 48), "red").save(path)
    with pytest.raises(DataError, match="none of 8 masks can be used") as refused:
        load(pairs)
    assert "masks/000.png: has colours (RGB)" in str(refused.value.hint)
