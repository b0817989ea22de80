"""Annotations of boxes as files have them: Pascal VOC's XML, COCO's JSON, and YOLO's text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from tlsearch.contracts.images import open_regular
from tlsearch.counts import plural
from tlsearch.errors import DataError, SpecError
from tlsearch.names import class_name, printable
from tlsearch.yaml_text import read_yaml

LARGEST = 1 << 30
"""Bytes of a file of annotations, at most."""
ROUNDING = 0.01
"""How far a box may reach out of its picture, as a share of the side, or 2 pixels: it is clipped then."""


@dataclass(frozen=True, slots=True)
class Marked:
    """An object as a file tells it: its class, and left, top, right, bottom.

    ``shares`` says that the four are shares of the picture's sides, not pixels.
    """

    label: str
    box: tuple[float, float, float, float]
    shares: bool = False


@dataclass(slots=True)
class Annotation:
    """What a file says of one picture.

    Attributes:
        picture: the picture's file as the annotation calls it, or empty.
        size: its width and height as the annotation has them; None where it doesn't tell.
        objects: on it.
        crowds: how many boxes stand for crowds of objects and were left out.
    """

    picture: str = ""
    size: tuple[int, int] | None = None
    objects: list[Marked] = field(default_factory=list)
    crowds: int = 0


@dataclass(slots=True)
class Coco:
    """A COCO file: annotations of its pictures, what of it can't be used, and names of classes by id."""

    pictures: list[Annotation]
    broken: list[str]
    names: Mapping[str, str]


def content(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it can't be read, or is too large.
    """
    with open_regular(path) as file:
        try:
            found = file.read(LARGEST + 1)
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
    if len(found) > LARGEST:
        raise DataError(f"has more than {LARGEST} bytes")
    return found


# ------------------------------------------------------------------------------------------------ Pascal VOC


def voc(path: Path) -> Annotation:
    """A file of Pascal VOC's XML.

    Raises:
        DataError: it is none; the message is a short reason.
    """
    root = _xml(content(path))
    if root.tag != "annotation":
        raise DataError(f"is no Pascal VOC annotation: its root is <{printable(root.tag)}>")
    size = (root.findtext("size/width"), root.findtext("size/height"))
    whole = [int(side) for side in size if side is not None and side.strip().isdigit()]
    found = Annotation(
        picture=(root.findtext("filename") or "").strip(),
        size=(whole[0], whole[1]) if len(whole) == 2 and min(whole) > 0 else None,
    )
    for number, one in enumerate(root.findall("object"), 1):
        label = class_name(one.findtext("name") or "")
        if not label:
            raise DataError(f"object {number} has no name")
        edges = []
        for edge in ("xmin", "ymin", "xmax", "ymax"):
            told = one.findtext(f"bndbox/{edge}")
            if told is None:
                raise DataError(f"object {number} ({label}) has no bndbox/{edge}")
            edges.append(_number(told, f"object {number} ({label}): {edge}"))
        left, top, right, bottom = edges
        found.objects.append(Marked(label, (left, top, right, bottom)))
    return found


def _xml(text: bytes) -> Element:
    """The root of a document without a type or entities of its own, which could grow without end."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise DataError("declares a document type or entities, which annotations have no use for")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda tag, attributes: builder.start(tag, attributes)
    parser.EndElementHandler = lambda tag: builder.end(tag)
    parser.CharacterDataHandler = lambda data: builder.data(data)
    try:
        parser.Parse(text, True)
        return builder.close()
    except (expat.ExpatError, AssertionError) as error:
        raise DataError(f"is no XML ({error})") from error


# ------------------------------------------------------------------------------------------------------ COCO


def is_coco(path: Path) -> bool:
    """Whether a JSON file is one of COCO's for boxes, or a damaged one, which whoever reads it tells of."""
    try:
        written = content(path)
    except DataError:
        return False
    try:
        document = json.loads(written)
    except (ValueError, RecursionError):
        return b'"images"' in written or b'"annotations"' in written
    if isinstance(document, list):  # of annotations alone; that the rest is missing is told
        return any(isinstance(one, dict) and "bbox" in one for one in document[:1])
    return isinstance(document, dict) and {"images", "annotations"} <= set(document)


def coco(path: Path) -> Coco:
    """A JSON file of COCO's.

    Raises:
        DataError: it is none; the message is a short reason.
    """
    try:
        document = json.loads(content(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON ({error})") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(part), list) for part in parts):
        raise DataError("is no COCO file: it needs lists of images, annotations and categories")
    names = {key: class_name(str(one["name"])) for key, one in _by_id(document, "categories", "name")}
    pictures = {
        key: Annotation(str(one["file_name"]), _size(one.get("width"), one.get("height")))
        for key, one in _by_id(document, "images", "file_name")
    }
    broken: list[str] = []
    spoiled: dict[str, str] = {}
    for number, one in enumerate(document["annotations"], 1):
        called = f"annotation {one.get('id', number)}" if isinstance(one, dict) else f"annotation {number}"
        picture = pictures.get(key := _key(one, "image_id"))
        if picture is None:
            broken.append(f"{called} is of image {key or 'none'}, which the file doesn't list")
            continue
        try:
            if one.get("iscrowd"):
                picture.crowds += 1
            else:
                picture.objects.append(_coco_object(one, names))
        except DataError as error:
            spoiled.setdefault(key, f"{called} {error.message}")
    broken += [f"{pictures[key].picture}: {why}" for key, why in spoiled.items()]
    return Coco([one for key, one in pictures.items() if key not in spoiled], broken, names)


def _by_id(document: Mapping[str, Any], part: str, wanted: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The images or categories of a COCO file with their ids."""
    found: dict[str, Mapping[str, Any]] = {}
    for number, one in enumerate(document[part], 1):
        key = _key(one, "id")
        if not key or wanted not in one:
            raise DataError(f"is no COCO file: of its {part} the one at place {number} lacks id or {wanted}")
        if key in found:
            raise DataError(f"has several {part} of id {key}")
        found[key] = one
    return list(found.items())


def _coco_object(one: Mapping[str, Any], names: Mapping[str, str]) -> Marked:
    kind = _key(one, "category_id")
    if kind not in names:
        raise DataError(f"is of category {kind or 'none'}, which the file doesn't list")
    box = one.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"({names[kind]}) has no bbox of left, top, width and height")
    left, top, wide, high = (_number(edge, f"({names[kind]}): bbox") for edge in box)
    return Marked(names[kind], (left, top, left + wide, top + high))


def _key(one: object, name: str) -> str:
    """An id as text: programs write the same one as 7, 7.0 and "7"; empty where there is none."""
    value = one.get(name) if isinstance(one, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | str) else ""


def _size(wide: object, high: object) -> tuple[int, int] | None:
    whole = isinstance(wide, int) and isinstance(high, int) and wide > 0 and high > 0
    return (wide, high) if whole else None  # type: ignore[return-value]  # looked at above


# ------------------------------------------------------------------------------------------------------ YOLO


def yolo(path: Path, names: Mapping[int, str]) -> Annotation:
    """A text file of YOLO's: a line for each object, of class index, centre, width and height.

    Raises:
        DataError: it is none; the message is a short reason.
    """
    try:
        lines = content(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("is no text") from error
    found = Annotation()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 5:
            kind = "an outline, no box" if len(words) > 6 and len(words) % 2 else "no box"
            raise DataError(
                f"line {number} is {kind}: it has {plural(len(words), 'number')}, right are 5: class, "
                "centre x, centre y, width, height"
            )
        if not words[0].isdigit():
            raise DataError(f'line {number} begins with "{printable(words[0])[:20]}", right is a class index')
        index = int(words[0])
        if index not in names:
            raise DataError(f"line {number} is of class {index}; classes are {_listed(names)}")
        x, y, wide, high = (_number(word, f"line {number} ({names[index]})") for word in words[1:])
        box = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
        found.objects.append(Marked(names[index], box, shares=True))
    return found


def yolo_names(folder: Path) -> tuple[dict[int, str], str]:
    """Names of the classes by index, and the file that has them; none where no file does.

    They stand in ``classes.txt``, ``obj.names`` or under ``names`` in a YAML file such as ``data.yaml``.

    Raises:
        DataError: a file has names that are none.
    """
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            plain, _ = read_yaml(content(path).decode("utf-8-sig"), path.name)
        except (SpecError, DataError, ValueError) as error:
            if path.stem not in ("data", "dataset"):  # it may be of anything else
                continue
            why = getattr(error, "message", "it is no text in UTF-8")
            raise DataError(f"{path} can't be read for the names of classes: {why}") from error
        if "names" not in plain:
            continue
        own = plain["names"]
        if isinstance(own, list):
            own = dict(enumerate(own))
        try:
            return {int(index): class_name(str(name)) for index, name in own.items()}, path.name
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: names is {printable(repr(own))[:60]}",
                hint="Right is a list of names, or names by class index.",
            ) from error
    for name in ("classes.txt", "obj.names", "labels.txt"):
        if (folder / name).is_file():
            lines = content(folder / name).decode("utf-8-sig", "replace").splitlines()
            return {at: class_name(line) for at, line in enumerate(lines) if line.strip()}, name
    return {}, ""


def highest(paths: list[Path]) -> int:
    """The largest class index in files of YOLO's, -1 where there is none; what is no such file has none."""
    most = -1
    for path in paths:
        try:
            words = [line.split() for line in content(path).decode("utf-8", "replace").splitlines()]
        except DataError:
            continue
        most = max([most, *(int(word[0]) for word in words if word and word[0].isdigit())])
    return most


# ----------------------------------------------------------------------------------------------- on pictures


def placed(one: Marked, size: tuple[int, int]) -> tuple[tuple[float, float, float, float], bool]:
    """An object's box as shares of its picture's sides, and whether it was clipped.

    Raises:
        DataError: it lies outside the picture, or has no area; the message is a short reason.
    """
    sides = (1, 1) if one.shares else size
    shares = [edge / side for edge, side in zip(one.box, (*sides, *sides), strict=True)]
    told = f"{one.label} at ({', '.join(f'{edge:g}' for edge in one.box)})"
    if one.box[2] <= one.box[0] or one.box[3] <= one.box[1]:
        raise DataError(f"the box of {told} has no area")
    if not one.shares and max(one.box) <= 1 and min(size) > 2:
        raise DataError(f"the box of {told} is in shares of the sides; right are pixels")
    allowed = [max(ROUNDING, 2 / side) for side in (*size, *size)]
    if any(share < -most or share > 1 + most for share, most in zip(shares, allowed, strict=True)):
        if one.shares and max(one.box) > 2:
            raise DataError(f"the box of {told} is in pixels; right are shares of the sides, from 0 to 1")
        raise DataError(f"the box of {told} reaches out of the picture of {size[0]} x {size[1]} pixels")
    left, top, right, bottom = (min(1.0, max(0.0, share)) for share in shares)
    if right - left < 1e-6 or bottom - top < 1e-6:
        raise DataError(f"the box of {told} has no area in the picture of {size[0]} x {size[1]} pixels")
    return (left, top, right, bottom), [left, top, right, bottom] != shares


def _number(told: object, where: str) -> float:
    try:
        value = float(told)  # type: ignore[arg-type]  # refused below
    except (TypeError, ValueError) as error:
        raise DataError(f'{where} is "{printable(str(told))[:20]}", no number') from error
    if not math.isfinite(value):
        raise DataError(f"{where} is {value}")
    return value


def _listed(names: Mapping[int, str]) -> str:
    told = [f"{index} ({name})" for index, name in list(names.items())[:8]]
    return ", ".join(told) + (", ..." if len(names) > 8 else "")
