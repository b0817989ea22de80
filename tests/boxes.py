"""Pictures with boxes, made from what packages carry: scikit-learn's digits set into noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

WIDE, HIGH = 96, 72
Box = tuple[int, int, int, int, int]
"""Class, left, top, right, bottom in pixels."""


def composites(count: int, *, seed: int = 0) -> list[tuple[NDArray[np.uint8], list[Box]]]:
    """Pictures (72, 96, 3) with none to two digits each: bright zeros, and dark ones that are larger."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    made = []
    for number in range(count):
        picture = rng.integers(90, 130, (HIGH, WIDE, 3))
        boxes: list[Box] = []
        for half in range(2)[: 0 if number % 8 == 7 else 1 + number % 2]:
            which = int(rng.integers(0, 2))
            digit = images[rng.choice(np.flatnonzero(labels == which))].reshape(8, 8)
            ink = np.kron(digit, np.ones((3 + which, 3 + which))) > 6
            rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
            ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            high, wide = ink.shape
            left = half * WIDE // 2 + int(rng.integers(0, WIDE // 2 - wide))
            top = int(rng.integers(0, HIGH - high))
            picture[top : top + high, left : left + wide][ink] = (20, 30, 60) if which else (250, 240, 200)
            boxes.append((which, left, top, left + wide, top + high))
        made.append((picture.astype(np.uint8), boxes))
    return made


NAMES = ("zero", "one")


def write(root: Path, count: int = 40, *, form: str = "voc", seed: int = 0) -> Path:
    """A folder with images/ and annotations of a form: ``voc``, ``coco`` or ``yolo``."""
    (root / "images").mkdir(parents=True)
    made = composites(count, seed=seed)
    for number, (picture, _) in enumerate(made):
        Image.fromarray(picture).save(root / "images" / f"{number:03d}.jpg", quality=95)
    {"voc": _voc, "coco": _coco, "yolo": _yolo}[form](root, [boxes for _, boxes in made])
    return root


def _voc(root: Path, boxes: Sequence[Sequence[Box]]) -> None:
    (root / "annotations").mkdir()
    for number, own in enumerate(boxes):
        objects = "".join(
            f"<object><name>{NAMES[kind]}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for kind, left, top, right, bottom in own
        )
        size = f"<size><width>{WIDE}</width><height>{HIGH}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{number:03d}.jpg</filename>{size}{objects}</annotation>"
        (root / "annotations" / f"{number:03d}.xml").write_text(text)


def _coco(root: Path, boxes: Sequence[Sequence[Box]]) -> None:
    pictures = [
        {"id": number, "file_name": f"{number:03d}.jpg", "width": WIDE, "height": HIGH}
        for number in range(len(boxes))
    ]
    told = [
        {"image_id": number, "category_id": kind + 5, "bbox": [left, top, right - left, bottom - top]}
        for number, own in enumerate(boxes)
        for kind, left, top, right, bottom in own
    ]
    document = {
        "images": pictures,
        "annotations": [{"id": at, **one} for at, one in enumerate(told)],
        "categories": [{"id": kind + 5, "name": name} for kind, name in enumerate(NAMES)],
    }
    (root / "annotations.json").write_text(json.dumps(document))


def _yolo(root: Path, boxes: Sequence[Sequence[Box]]) -> None:
    (root / "labels").mkdir()
    for number, own in enumerate(boxes):
        lines = [
            f"{kind} {(left + right) / 2 / WIDE} {(top + bottom) / 2 / HIGH} {(right - left) / WIDE} "
            f"{(bottom - top) / HIGH}"
            for kind, left, top, right, bottom in own
        ]
        (root / "labels" / f"{number:03d}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: [zero, one]\n")
