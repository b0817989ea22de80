"""Pictures that are nearly the same are found, and those that merely look alike aren't."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.datasets import load_digits, load_sample_image

from tlsearch.contracts.images import ImageInput
from tlsearch.training import duplicates

INPUTS = ImageInput(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NONE = np.zeros(0, dtype=np.int64)


def saved_again(image: Image.Image, quality: int = 30) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def marked(image: Image.Image) -> Image.Image:
    copy = image.copy()
    copy.paste((255, 255, 255), (2, 2, 14, 8))
    return copy


def trimmed(image: Image.Image) -> Image.Image:
    return image.crop((1, 1, image.width - 1, image.height - 1))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": saved_again,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "marked": marked,
    "trimmed": trimmed,
}


@pytest.fixture(scope="module")
def crops() -> list[Image.Image]:
    """Two hundred different pieces of two photographs."""
    rng = np.random.default_rng(0)
    pieces = []
    for name in ("china.jpg", "flower.jpg"):
        photo = Image.fromarray(load_sample_image(name))
        for _ in range(100):
            size = int(rng.integers(100, 180))
            left = int(rng.integers(0, photo.width - size))
            top = int(rng.integers(0, photo.height - size))
            pieces.append(photo.crop((left, top, left + size, top + size)))
    return pieces


def encoded(images: list[Image.Image]) -> np.ndarray:
    return np.stack([INPUTS.encode(np.asarray(image.convert("RGB"))) for image in images])


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_copy_is_found_and_nothing_else(crops, change):
    train, others = crops[:100], crops[100:]
    copies = [change(image) for image in train[:20]]
    array = encoded([*train, *others, *copies])
    indices = {"train": np.arange(100), "stop": NONE, "val": np.arange(100, 220), "test": NONE}
    found = duplicates.find(array, indices)
    hits = [pair for pair in found.pairs if pair.index >= 200]
    assert {(pair.split, pair.other_split) for pair in found.pairs} == {("val", "train")}
    assert len(hits) >= 18
    assert all(pair.other == pair.index - 200 for pair in hits)
    assert len(found.pairs) == len(hits), "different pieces of a photograph are no copies"
    assert found.compared == 120


def test_digits_look_alike_and_are_not_the_same():
    images = load_digits().images[:1200]
    grey = [Image.fromarray((image * 255 / 16).astype(np.uint8)) for image in images]
    order = np.random.default_rng(0).permutation(1200)
    indices = {"train": order[:800], "stop": order[800:900], "val": order[900:1050], "test": order[1050:]}
    assert duplicates.find(encoded(grey), indices).pairs == ()
    copied = encoded([*grey, saved_again(grey[order[0]], 90)])
    (pair,) = duplicates.find(copied, {**indices, "val": np.append(indices["val"], 1200)}).pairs
    assert (pair.index, pair.split, pair.other, pair.other_split) == (1200, "val", order[0], "train")


def test_each_held_out_split_is_compared_with_those_before_it(crops):
    array = encoded([*crops[:40], crops[0], crops[1], crops[0], crops[2]])
    indices = {
        "train": np.array([0, *range(3, 40)]),
        "stop": np.array([1]),
        "val": np.array([2, 40]),
        "test": np.array([41, 42, 43]),
    }
    found = duplicates.find(array, indices)
    assert {(pair.index, pair.split, pair.other, pair.other_split) for pair in found.pairs} == {
        (40, "val", 0, "train"),
        (41, "test", 1, "train"),
        (42, "test", 0, "train"),
        (42, "test", 40, "val"),
        (43, "test", 2, "val"),
    }
    assert all(pair.distance == pytest.approx(0, abs=1e-3) for pair in found.pairs)


def test_pictures_that_show_nothing_are_told_apart(crops):
    plain = [Image.new("RGB", (50, 50), color) for color in ("black", "white", "black")]
    array = encoded([*crops[:30], *plain])
    indices = {"train": np.arange(31), "stop": NONE, "val": np.array([31, 32]), "test": NONE}
    found = duplicates.find(array, indices)
    assert found.plain == (30, 31, 32)
    assert found.pairs == ()
    only = duplicates.find(
        encoded(plain), {"train": np.arange(2), "stop": NONE, "val": np.array([2]), "test": NONE}
    )
    assert (only.pairs, only.plain) == ((), (0, 1, 2))


def test_many_are_looked_up_in_a_moment():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20_000, 3, 8, 8), dtype=np.uint8)
    small[19_000] = small[5]
    order = np.arange(20_000)
    indices = {"train": order[:14_000], "stop": NONE, "val": order[14_000:17_000], "test": order[17_000:]}
    (pair,) = duplicates.find(small, indices).pairs
    assert (pair.index, pair.other) == (19_000, 5)


def test_of_very_many_held_out_pictures_some_are_looked_up(crops, monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_HELD_OUT", 3)
    array = encoded([*crops[:20], *crops[:9]])
    indices = {"train": np.arange(20), "stop": NONE, "val": np.arange(20, 29), "test": NONE}
    found = duplicates.find(array, indices)
    assert found.compared == 3
    assert [pair.index for pair in found.pairs] == [20, 24, 28]
