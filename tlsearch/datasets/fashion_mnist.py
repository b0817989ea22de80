"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) from its IDX files, packed or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.errors import DataError

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DEBIAN_PATH = Path("/usr/share/datasets/fashion-mnist")
_PARTS = {"train": "train", "test": "t10k"}
_HINT = (
    "The four files are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and"
    " t10k-labels-idx1-ubyte, with or without .gz. Debian's package dataset-fashion-mnist puts them in"
    f" {DEBIAN_PATH}."
)


class FashionMNISTOptions(DatasetOptions):
    """Where the files are, and how much of them to take.

    Attributes:
        path: folder of the four IDX files; where Debian's package puts them, by default.
        train_items: take only so many training items, every class in its share; all by default.
        test_items: the same for test items.
        seed: chooses which.
    """

    path: Annotated[Path, Field(strict=False)] = DEBIAN_PATH
    train_items: int | None = Field(default=None, ge=len(CLASSES))
    test_items: int | None = Field(default=None, ge=len(CLASSES))
    seed: int = Field(default=0, ge=0)


class FashionMNIST(DatasetSource[FashionMNISTOptions]):
    """60000 training and 10000 test images of clothes, 28 x 28 grey pixels, ten classes."""

    options = FashionMNISTOptions

    def load(self, options: FashionMNISTOptions) -> Samples:
        """All items, training ones first, as uint8 arrays (28, 28).

        Raises:
            DataError: a file is missing or damaged, or there are fewer items than were asked for.
        """
        items: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        names: list[str] = []
        splits: list[str] = []
        for split, part in _PARTS.items():
            images = read_idx(_find(options.path, f"{part}-images-idx3-ubyte"), dimensions=3)
            targets = read_idx(_find(options.path, f"{part}-labels-idx1-ubyte"), dimensions=1)
            if len(images) != len(targets) or (targets.size and targets.max() >= len(CLASSES)):
                raise DataError(f"the {part} images and labels in {options.path} don't belong together")
            wanted = options.train_items if split == "train" else options.test_items
            kept = np.arange(len(targets))
            if wanted is not None:
                kept = stratified_subset(targets, wanted, seed=options.seed, what=split)
            items += list(images[kept])
            labels += targets[kept].tolist()
            names += [f"{split} {index}" for index in kept]
            splits += [split] * len(kept)
        return Samples(items=items, labels=labels, classes=CLASSES, names=names, splits=splits)


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, unpacked if its name ends in ``.gz``.

    The format is big-endian: two zero bytes, type 8, the number of dimensions, each dimension as 32 bits,
    then the bytes. torchvision's reader checks this with ``assert`` alone and reads no gzip.

    Raises:
        DataError: it isn't such a file, or is too short or too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise DataError(f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            data = file.read(min(size, 2**31) + 1)  # one more than there should be; no more from a gzip bomb
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if len(data) != size:
        held = "more" if len(data) > size else f"{len(data)}"
        raise DataError(f"{path} should hold {size} bytes of {shape} and holds {held}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def stratified_subset(
    labels: NDArray[np.uint8], count: int, *, seed: int, what: str = "train"
) -> NDArray[np.intp]:
    """Ascending indices of ``count`` items in which every class keeps its share (largest remainders).

    Raises:
        DataError: there are fewer than ``count`` items.
    """
    if count > len(labels):
        raise DataError(f"{what}_items is {count}, but there are {len(labels)} {what} items")
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} has neither {name} nor {name}.gz", hint=_HINT)
