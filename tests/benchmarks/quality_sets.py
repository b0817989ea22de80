"""Data sets for the benchmark of quality, as anybody has them: files and a table with labels and splits."""

from __future__ import annotations

import importlib.util
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from tests.benchmarks.bench import FASHION
from tlsearch.datasets.fashion_mnist import read_idx

PHOTOS = "TLSEARCH_BENCH_DATA"
"""Environment variable: a folder with `magnetic_tile` and `blood_cells`, which no package carries."""
TEST_ITEMS = 1_500


@dataclass(frozen=True)
class Case:
    """A data set.

    Attributes:
        name: in tables.
        image_size: pixels that every method trains at.
        flips: which ways pictures may be flipped, as somebody who knows them would say.
        items: labelled images; a quarter of them are validation items.
        make: yields pictures with labels.
        missing: why it can't be had on this machine, or empty.
    """

    name: str
    image_size: int
    flips: str
    items: tuple[int, ...]
    make: Callable[[], Iterator[tuple[Image.Image, str]]]
    missing: Callable[[], str] = str

    def table(self, folder: Path, *, items: int, seed: int) -> Path:
        """Files, and a table of them with stratified splits: train, val, test. Made once."""
        everything = folder / self.name
        if not (everything / "all.csv").exists():
            (everything / "images").mkdir(parents=True, exist_ok=True)
            rows = []
            for number, (picture, label) in enumerate(self.make()):
                file = f"images/{number:06d}.png"
                picture.save(everything / file)
                rows.append((file, label))
            pd.DataFrame(rows, columns=["image", "label"]).to_csv(everything / "all.csv", index=False)
        path = everything / f"{items}-{seed}.csv"
        if not path.exists():
            frame = pd.read_csv(everything / "all.csv", dtype=str)
            labelled, rest = _cut(frame, items, seed)
            train, val = _cut(labelled, items * 3 // 4, seed)
            test = rest if len(rest) <= TEST_ITEMS else _cut(rest, TEST_ITEMS, seed)[0]
            pd.concat(
                [train.assign(split="train"), val.assign(split="val"), test.assign(split="test")]
            ).to_csv(path, index=False)
        return path


def _cut(frame: pd.DataFrame, first: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    one, other = train_test_split(frame, train_size=first, stratify=frame["label"], random_state=seed)
    return one, other


def _digits() -> Iterator[tuple[Image.Image, str]]:
    digits = load_digits()
    for picture, label in zip(digits.images, digits.target, strict=True):
        yield Image.fromarray((picture * 255 / 16).astype(np.uint8)), str(label)


def _fashion() -> Iterator[tuple[Image.Image, str]]:
    images = read_idx(Path(FASHION) / "train-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(Path(FASHION) / "train-labels-idx1-ubyte.gz", dimensions=1)
    for index in np.random.default_rng(0).permutation(len(labels))[:4_000]:
        yield Image.fromarray(images[index]), str(labels[index])


def solar_cells() -> Iterator[tuple[Image.Image, float, str]]:
    """Grey pictures of `elpv-dataset`, with the probability of a defect and the cell's type."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec is not None
    data = Path(str(spec.origin)).parent / "data"
    for line in (data / "labels.csv").read_text().splitlines():
        file, probability, kind = line.split()
        with Image.open(data / file) as picture:
            yield picture.convert("L").resize((150, 150)), float(probability), kind


def _cells() -> Iterator[tuple[Image.Image, str]]:
    """Solar cells: sound (0, 1/3) or defective (2/3, 1), as its authors cut it."""
    for picture, probability, _ in solar_cells():
        yield picture, "defect" if probability > 0.5 else "sound"


def _tiles() -> Iterator[tuple[Image.Image, str]]:
    for file in sorted((_photos() / "magnetic_tile" / "images").glob("*/*.jpg")):
        with Image.open(file) as picture:
            yield picture.convert("L"), file.parent.name


def _blood() -> Iterator[tuple[Image.Image, str]]:
    """Each box of at least 20 pixels, cut out; of red cells, which are nine in ten, two of each picture."""
    root = _photos() / "blood_cells"
    for file in sorted((root / "annotations").glob("*.xml")):
        tree = ElementTree.parse(file)
        with Image.open(root / "images" / f"{file.stem}.jpg") as picture:
            red = 0
            for thing in tree.findall("object"):
                label = str(thing.findtext("name"))
                box = [
                    int(thing.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")
                ]
                red += label == "RBC"
                if min(box[2] - box[0], box[3] - box[1]) >= 20 and not (label == "RBC" and red > 2):
                    yield picture.convert("RGB").crop(box), label


def _photos() -> Path:
    return Path(os.environ.get(PHOTOS, ""))


def _no_photos() -> str:
    there = PHOTOS in os.environ and (_photos() / "magnetic_tile").is_dir()
    return "" if there else f"{PHOTOS} names no folder with magnetic_tile and blood_cells"


CASES = (
    Case("digits", 64, "none", (100, 400, 1000), _digits),
    Case(
        "fashion",
        64,
        "horizontal",
        (100, 400, 1000),
        _fashion,
        lambda: "" if Path(FASHION).is_dir() else f"{FASHION} isn't here",
    ),
    Case(
        "solar cells",
        96,
        "both",
        (100, 400, 1100),
        _cells,
        lambda: "" if importlib.util.find_spec("elpv_dataset") else "elpv-dataset isn't installed",
    ),
    Case("magnetic tiles", 64, "both", (100, 400), _tiles, _no_photos),
    Case("blood cells", 64, "both", (100, 400), _blood, _no_photos),
)
