"""Pictures with boxes around objects, annotated in Pascal VOC's XML, COCO's JSON or YOLO's text."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tlsearch import walk
from tlsearch.contracts import boxes
from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.contracts.masks import in_threads, size_of
from tlsearch.counts import plural
from tlsearch.datasets import box_files, box_layout
from tlsearch.datasets.box_files import Annotation
from tlsearch.datasets.box_layout import ENDINGS, LAYOUT, Place, Said, files_of, is_yolo
from tlsearch.errors import DataError
from tlsearch.names import class_name, printable, split_of

LISTS = ("ImageSets/Main", "ImageSets", "splits")
"""Folders of lists, a text file for each split."""
_Int = Annotated[int, Field(strict=False)]


def _class_names(given: Any) -> Any:
    """Names by index; a list counts from 0, and numbers may be names."""
    named = dict(enumerate(given)) if isinstance(given, list | tuple) else given
    if not isinstance(named, dict):
        raise ValueError("must be a list of names, or names by class index")
    return {
        index: str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name
        for index, name in named.items()
    }


class BoxOptions(DatasetOptions):
    """Where pictures and boxes are.

    Attributes:
        path: a folder with ``images/`` and annotations in it, perhaps below ``train/``, ``val/``, ``test/``.
        images: what the folder of pictures is called; found out where it is left out.
        annotations: what the folder or JSON file of annotations is called; found out where it is left out.
        format: ``voc``, ``coco`` or ``yolo``; found out where it is left out.
        classes: names by class index, or a list, for YOLO's text; from ``data.yaml`` or ``classes.txt`` where
            left out.
        unannotated: ``broken``: a picture without an annotation is an error; ``empty``: it shows no object.
    """

    path: Annotated[Path, Field(strict=False)]
    images: str | None = None
    annotations: str | None = None
    format: Literal["voc", "coco", "yolo"] | None = None
    classes: Annotated[dict[_Int, str], BeforeValidator(_class_names)] = {}
    unannotated: Literal["broken", "empty"] = "broken"


class Boxes(DatasetSource[BoxOptions]):
    """Pictures with boxes. The order of items, named by their paths, is the same on any machine."""

    task = "detection"
    options = BoxOptions

    @classmethod
    def suits(cls, path: Path) -> bool:
        """Whether a folder has pictures and annotations of boxes."""
        try:
            return path.is_dir() and bool(box_layout.places(path.resolve(), Said()))
        except (DataError, OSError):
            return False

    def load(self, options: BoxOptions) -> Samples:
        """List the pictures and their boxes.

        A picture without annotation, an annotation without picture, and one with a box that lies outside, has
        no area or is of an unknown class are broken items. A picture without objects is not.

        Raises:
            DataError: nothing is there, or no box.
        """
        root = _root(options.path)
        places = box_layout.places(root, Said(options.images, options.annotations, options.format))
        if not places:
            raise DataError(f"{root} has no pictures with annotations of boxes.", hint=LAYOUT)
        found = _Found()
        for place in places:
            found.kinds[place.format] += 1
            _read(root, place, options, found)
        if not found.pairs:
            first = f" The first problem of {len(found.broken)}: {found.broken[0]}" if found.broken else ""
            raise DataError(f"{root} holds no picture with an annotation.{first}", hint=LAYOUT)
        _refuse_repeated(root, places, found)
        found.pairs.sort(key=lambda pair: os.fsencode(pair.name))
        _put_into_splits(root, found)
        return _samples(root, found)


@dataclass(slots=True)
class _Pair:
    image: Path
    annotation: Annotation
    name: str
    split: str = ""


@dataclass(slots=True)
class _Found:
    pairs: list[_Pair] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def note(self, *sentences: str) -> None:
        """Tell each once."""
        self.notes += [sentence for sentence in sentences if sentence not in self.notes]


def _refuse_repeated(root: Path, places: Sequence[Place], found: _Found) -> None:
    """Refuse several files of annotations for the same pictures, of boxes and of keypoints for instance."""
    seen: set[tuple[Path, str]] = set()
    for pair in found.pairs:
        if (pair.image, pair.split) in seen:
            files = ", ".join(_named(place.annotations, root) for place in places)
            raise DataError(
                f"{root}: several of the files {files} list the picture {pair.name}",
                hint="Name one in the data section, such as annotations: annotations/instances.json",
            )
        seen.add((pair.image, pair.split))


def _root(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"there is no folder {path}", hint=LAYOUT) from error


def _samples(root: Path, found: _Found) -> Samples:
    """Items of what was read, with boxes as shares of their pictures."""
    labels: Counter[str] = Counter(one.label for pair in found.pairs for one in pair.annotation.objects)
    names = sorted(labels)
    clipped = 0
    kept: list[_Pair] = []
    rows: list[boxes.Rows] = []
    for pair, told in zip(
        found.pairs, in_threads(lambda pair: _coded(pair, names), found.pairs), strict=True
    ):
        if isinstance(told, str):
            found.broken.append(f"{pair.name}: {told}")
            continue
        own, count = told
        clipped += count
        kept.append(pair)
        rows.append(own)
    if not kept:
        raise DataError(f"{root} holds no picture whose boxes fit: {found.broken[0]}", hint=LAYOUT)
    try:
        spec = boxes.described(names, rows)
    except DataError as error:
        crowds = sum(pair.annotation.crowds for pair in kept)
        why = [f"{plural(crowds, 'box', 'boxes')} of crowds (iscrowd) are left out"] if crowds else []
        why += (
            [f"the first of {plural(len(found.broken), 'problem')}: {found.broken[0]}"]
            if found.broken
            else []
        )
        told = f" ({'; '.join(why)})" if why else ""
        raise DataError(f"{root}: {error.message}{told}", hint=error.hint) from None
    objects = sum(map(len, rows))
    empty = sum(not len(own) for own in rows)
    crowds = sum(pair.annotation.crowds for pair in kept)
    notes = [f"understood: {plural(objects, 'box', 'boxes')} in annotations of {_formats(found.kinds)}"]
    if empty:
        notes.append(f"understood: {plural(empty, 'picture')} without any object")
    if clipped:
        notes.append(
            f"{plural(clipped, 'box', 'boxes')} reached out of the picture by a pixel or two: clipped to it"
        )
    if crowds:
        notes.append(f"left out: {plural(crowds, 'box', 'boxes')} of crowds (iscrowd)")
    return Samples(
        items=[pair.image for pair in kept],
        targets=boxes.stacked(rows, most=int(spec.facts["most"])),
        spec=spec,
        names=[pair.name for pair in kept],
        splits=[pair.split for pair in kept] if any(pair.split for pair in kept) else None,
        broken=tuple(found.broken),
        notes=(*notes, *found.notes),
    )


def _coded(pair: _Pair, names: Sequence[str]) -> tuple[boxes.Rows, int] | str:
    """A picture's boxes and how many were clipped, or why they can't be used."""
    annotation = pair.annotation
    try:
        size = size_of(pair.image)
    except DataError as error:
        # Whoever decodes pictures names it, unless its boxes need its size.
        if annotation.size is None and not all(one.shares for one in annotation.objects):
            return error.message
        size = annotation.size or (1, 1)
    if annotation.size is not None and annotation.size != size:
        wide, high = annotation.size
        return f"its annotation is of {wide} x {high} pixels, and the picture has {size[0]} x {size[1]}"
    rows, clipped = [], 0
    for one in annotation.objects:
        try:
            box, cut = box_files.placed(one, size)
        except DataError as error:
            return error.message
        rows.append((names.index(one.label), *box))
        clipped += cut
    return boxes.rows(rows), clipped


def _formats(kinds: Mapping[str, int]) -> str:
    told = {"voc": "Pascal VOC", "coco": "COCO", "yolo": "YOLO"}
    return " and ".join(told[kind] for kind in kinds)


# ------------------------------------------------------------------------------------------ what is in there


def _read(root: Path, place: Place, options: BoxOptions, found: _Found) -> None:
    left = walk.Left()
    pictures: dict[str, Path] = {}
    for path, why in walk.files(place.images, root, left):
        if why:
            found.broken.append(f"{_named(path, root)}: {why}")
        else:
            pictures[path.relative_to(place.images).as_posix()] = path
    if place.images != place.annotations:
        found.notes += left.told() if place.annotations.parent != place.images else ()
    if place.format == "coco":
        _read_coco(root, place, pictures, found)
    else:
        _read_files(root, place, pictures, options, found)


def _read_coco(root: Path, place: Place, pictures: Mapping[str, Path], found: _Found) -> None:
    called = _named(place.annotations, root)
    try:
        document = box_files.coco(place.annotations)
    except DataError as error:
        raise DataError(f"{called} {error.message}", hint=LAYOUT) from error
    found.broken += [f"{called}: {why}" for why in document.broken]
    found.note(*_doubled(document.names))
    names: dict[str, list[Path]] = {}
    for path in pictures.values():
        names.setdefault(path.name, []).append(path)
    taken: set[Path] = set()
    for one in document.pictures:
        image = pictures.get(one.picture.removeprefix("./"))
        # file_name may have folders that are elsewhere by now, of Windows too, or be a URL.
        same = names.get(re.split(r"[\\/]", one.picture.partition("?")[0])[-1], [])
        if image is None and len(same) == 1:
            (image,) = same
        if image is None:
            found.broken.append(
                f"{called}: there is no picture {printable(one.picture)} in {place.images.name}/"
            )
        elif image in taken:
            found.broken.append(f"{called}: lists {printable(one.picture)} as several images")
        else:
            taken.add(image)
            found.pairs.append(_Pair(image, one, _named(image, root), place.split))


def _read_files(
    root: Path, place: Place, pictures: Mapping[str, Path], options: BoxOptions, found: _Found
) -> None:
    """Match annotation files with pictures by their paths without ending."""
    files = {
        path.relative_to(place.annotations).with_suffix("").as_posix(): path
        for path in files_of(place.annotations, place.format)
    }
    names = _names(root, place, options, list(files.values()), found) if place.format == "yolo" else {}
    used: set[str] = set()
    for relative, image in pictures.items():
        key, name = Path(relative).with_suffix("").as_posix(), _named(image, root)
        below = split_of(Path(relative).parts[0]) if len(Path(relative).parts) > 1 else None
        split = place.split or below or ""
        own = files.get(key)
        used.add(key)
        if own is None and options.unannotated == "broken":
            ending = next(ending for ending, kind in ENDINGS.items() if kind == place.format)
            wanted = (place.annotations.relative_to(root) / key).as_posix() + ending
            found.broken.append(f"{name}: has no annotation, which would be {printable(wanted)}")
            continue
        try:
            annotation = Annotation() if own is None else _annotation(own, root, place.format, names)
        except DataError as error:
            found.broken.append(f"{name}: its annotation {error.message}")
            continue
        found.pairs.append(_Pair(image, annotation, name, split))
    found.broken += [
        f"{_named(path, root)}: an annotation without a picture"
        for key, path in files.items()
        if key not in used and not (place.format == "yolo" and not is_yolo(path))
    ]


def _annotation(path: Path, root: Path, kind: str, names: Mapping[int, str]) -> Annotation:
    if why := walk.refusal(path, root):
        raise DataError(f"is {why}" if why.startswith("a ") else why)
    return box_files.voc(path) if kind == "voc" else box_files.yolo(path, names)


def _names(
    root: Path, place: Place, options: BoxOptions, files: list[Path], found: _Found
) -> Mapping[int, str]:
    """Names of YOLO's classes: as they were given, as a file has them, or numbers."""
    if options.classes:
        given = {index: class_name(name) for index, name in options.classes.items()}
        found.note(*_doubled(given))
        return given
    for folder in (root, place.annotations, place.annotations.parent):
        names, file = box_files.yolo_names(folder)
        if names:
            found.note(f"understood: classes are named by {file}", *_doubled(names))
            return names
    found.note(
        "understood: no data.yaml or classes.txt names the classes: they are called by number (data.classes)"
    )
    return {index: f"class {index}" for index in range(box_files.highest(files) + 1)}


def _doubled(names: Mapping[Any, str]) -> list[str]:
    counts = Counter(names.values())
    return [f'{count} classes are called "{name}" and are one' for name, count in counts.items() if count > 1]


def _put_into_splits(root: Path, found: _Found) -> None:
    """Splits as lists in text files name them, where no folder does."""
    if any(pair.split for pair in found.pairs):
        return
    lists = next((root / name for name in LISTS if (root / name).is_dir()), None)
    if lists is None:
        return
    named: dict[str, str] = {}
    for entry in walk.entries(lists):
        stem, ending = os.path.splitext(entry.name)
        split = split_of(stem) if ending == ".txt" else None
        if split is None:
            continue
        for line in box_files.content(Path(entry.path)).decode("utf-8-sig", "replace").splitlines():
            stem = Path(line.split()[0]).stem if line.split() else ""
            if stem and named.setdefault(stem, split) != split:
                raise DataError(f"{lists} names {printable(stem)} in {named[stem]} and in {split}")
    if "train" not in named.values():
        return
    kept = [pair for pair in found.pairs if pair.image.stem in named]
    for pair in kept:
        pair.split = named[pair.image.stem]
    where = lists.relative_to(root).as_posix()
    found.notes.append(f"understood: splits are those that {where}/ lists")
    if missing := len(found.pairs) - len(kept):
        found.notes.append(f"left out: {plural(missing, 'picture')} that no list in {where}/ names")
    found.pairs[:] = kept


def _named(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())
