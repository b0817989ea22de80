"""Where a folder has pictures and annotations of boxes, and of which format these are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlsearch import walk
from tlsearch.datasets import box_files
from tlsearch.datasets.masks import IMAGES
from tlsearch.errors import DataError
from tlsearch.names import split_of

ANNOTATIONS = ("annotations", "annotation", "labels", "label", "boxes", "xml", "bboxes")
"""What folders of annotations are called, in any case."""
ENDINGS = {".xml": "voc", ".txt": "yolo", ".json": "coco"}
LAYOUT = (
    "Right are a folder images/ and beside it annotations/ with Pascal VOC's XML (images/1.jpg, "
    "annotations/1.xml), labels/ with YOLO's text, or a JSON file of COCO's."
)


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says of a folder; what is None is found.

    Attributes:
        images: what the folder of pictures is called.
        annotations: what the folder or JSON file of annotations is called.
        format: ``voc``, ``coco`` or ``yolo``.
    """

    images: str | None = None
    annotations: str | None = None
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Pictures and their annotations: a folder of files, or a JSON file, of one split or of none (empty)."""

    split: str
    images: Path
    annotations: Path
    format: str


def places(root: Path, said: Said) -> list[Place]:
    """Where pictures and annotations are: right in the root, or in folders of splits."""
    here = _beside(root, root, "", said)
    if here:
        return here
    found: list[Place] = []
    for name, folder in walk.folders(root, root, peek=True).items():
        split = split_of(name)
        inside = _beside(folder, root, split, said) if split else []
        if inside and split in {place.split for place in found}:
            raise DataError(f"{root} has more than one folder for {split}", hint=LAYOUT)
        found += inside
    if found and "train" not in {place.split for place in found}:
        raise DataError(f"{root} has no train/ with pictures and annotations in it", hint=LAYOUT)
    return found


def _beside(place: Path, root: Path, split: str, said: Said) -> list[Place]:
    """Pictures and annotations in one folder: in folders beside each other, or mixed."""
    folders = walk.folders(place, root, peek=True)
    lower = {name.lower(): folder for name, folder in folders.items()}

    def chosen(given: str | None, known: Sequence[str]) -> Path | None:
        if given is not None:
            return place / given if (place / given).exists() else None
        return next((lower[name] for name in known if name in lower), None)

    images = chosen(said.images, IMAGES)
    annotations = chosen(said.annotations, ANNOTATIONS)
    mixed = images is None and said.images is None
    if mixed and any(entry.is_file() and not walk.beside(entry.name) for entry in walk.entries(place)):
        images = place
    if images is None:
        return []
    candidates = [annotations] if annotations is not None else []
    if said.annotations is None:
        candidates += [images, place]
    for candidate in candidates:
        found = _formatted(candidate, images, root, split, said.format)
        if found:
            return found
    return []


def _formatted(annotations: Path, images: Path, root: Path, split: str, given: str | None) -> list[Place]:
    """Annotations of one format in a folder, or in a JSON file; none where there are none."""
    if annotations.is_file():
        suits = given in (None, "coco") and box_files.is_coco(annotations)
        return [Place(split, images, annotations, "coco")] if suits else []
    beside = [Path(entry.path) for entry in walk.entries(annotations) if entry.is_file()]
    if given in (None, "coco"):
        files = [path for path in beside if path.suffix.lower() == ".json" and box_files.is_coco(path)]
        if files:
            return [Place(split or _split_in(path), images, path, "coco") for path in files]
    for kind, looks_so in (("voc", _is_voc), ("yolo", is_yolo)):
        if given in (None, kind):
            first = next((path for path in files_of(annotations, kind) if looks_so(path)), None)
            if first is not None:
                return [Place(split, images, annotations, kind)]
    # Lines of another kind, such as outlines, are told of by whoever reads them. Texts among the pictures, or
    # beside their folder, may be anything else.
    if given in (None, "yolo"):
        apart = annotations not in (images, images.parent)
        files = [path for path in files_of(annotations, "yolo") if apart or _is_numbers(path)]
        texts = {path.relative_to(annotations).with_suffix("") for path in files}
        if any(path.relative_to(images).with_suffix("") in texts for path, _ in _files(images, root)):
            return [Place(split, images, annotations, "yolo")]
    return []


def _files(images: Path, root: Path) -> Iterator[tuple[Path, str]]:
    return walk.files(images, root, walk.Left())


def _split_in(path: Path) -> str:
    """The split that a file's name tells: instances_train2017.json, val.json."""
    words = path.stem.replace("-", "_").split("_")
    known = [split_of(word.rstrip("0123456789")) for word in words]
    return next((split for split in known if split), "")


def files_of(folder: Path, kind: str) -> Iterator[Path]:
    """Files of annotations at any depth, in the order of their paths."""
    for place, inside, names in os.walk(folder):
        inside.sort()
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if ENDINGS.get(suffix) == kind and not (kind == "yolo" and name in ("classes.txt", "labels.txt")):
                yield Path(place, name)


def _is_voc(path: Path) -> bool:
    try:
        box_files.voc(path)
    except DataError:
        return b"<annotation" in _head(path)
    return True


def is_yolo(path: Path) -> bool:
    """Whether a text file has lines of five numbers, the first of them whole."""
    try:
        words = _head(path).decode().splitlines()[0].split()
        return (
            len(words) == 5 and words[0].isdigit() and bool(np.isfinite([float(w) for w in words[1:]]).any())
        )
    except (UnicodeDecodeError, ValueError, IndexError):
        return False


def _is_numbers(path: Path) -> bool:
    """Whether a text file begins with a line of numbers, more than four and the first of them whole."""
    try:
        first, *others = _head(path).decode().splitlines()[0].split()
        return len(others) >= 4 and first.isdigit() and bool(np.isfinite([float(w) for w in others]).all())
    except (UnicodeDecodeError, ValueError, IndexError):
        return False


def _head(path: Path) -> bytes:
    try:
        return box_files.content(path)[:4096]
    except DataError:
        return b""
