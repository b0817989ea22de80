"""Pictures with masks, made from what packages carry: scikit-learn's digits set into its photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SIDE = 48


def composites(
    count: int, *, seed: int = 0, digits: Sequence[int] = (0, 1)
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pictures (48, 60, 3) and masks (48, 60): 0 for ground, 1 for the first digit, 2 for the second, ..."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    photographs = [photograph[::2, ::2] for photograph in load_sample_images().images]
    pairs = []
    for number in range(count):
        which = number % len(digits)
        drawn = rng.choice(np.flatnonzero(labels == digits[which]))
        digit = np.kron(images[drawn].reshape(8, 8), np.ones((3, 3)))
        photograph = photographs[rng.integers(len(photographs))]
        down, right = rng.integers(photograph.shape[0] - SIDE), rng.integers(photograph.shape[1] - 60)
        picture = photograph[down : down + SIDE, right : right + 60].copy()
        top, left = rng.integers(0, SIDE - 24), rng.integers(0, 60 - 24)
        ink = digit > 6
        picture[top : top + 24, left : left + 24][ink] = (250, 240, 30) if which else (20, 230, 250)
        mask = np.zeros((SIDE, 60), np.uint8)
        mask[top : top + 24, left : left + 24][ink] = which + 1
        pairs.append((picture, mask))
    return pairs


def write(root: Path, count: int = 40, *, values: Sequence[int] = (0, 1, 2)) -> Path:
    """A folder with images/ and masks/ in it."""
    table = np.array(values, np.uint8)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, (picture, mask) in enumerate(composites(count)):
        Image.fromarray(picture).save(root / "images" / f"{number:03d}.jpg", quality=95)
        Image.fromarray(table[mask]).save(root / "masks" / f"{number:03d}.png")
    return root
