"""WebDataset shards: tar files whose members of one stem are one item, such as ``7.jpg`` and ``7.cls``.

See https://github.com/webdataset/webdataset for the format. Nothing is unpacked: shards are listed once, and
pictures are read out of them where they lie.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tlsearch.contracts import DatasetOptions, DatasetSource, Samples
from tlsearch.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "ppm", "pgm", "bmp", "webp", "tif", "tiff", "gif")
LABEL_BYTES = 1_000_000
"""Larger labels than this aren't labels."""
_SPLITS = ("train", "val", "test")


class WebDatasetOptions(DatasetOptions):
    """Where the shards are.

    Attributes:
        path: a ``.tar`` file, or a folder of them.
        label: which member tells the class: ``cls`` (a number or a name), ``txt``, or ``json`` with a key.
        key: of a JSON member.
        classes: names of the classes, where labels are numbers.
    """

    path: Annotated[Path, Field(strict=False)]
    label: str = "cls"
    key: str = "label"
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies."""

    shard: Path
    start: int
    size: int


class Pictures(Sequence[bytes]):
    """Pictures inside shards, read when they are asked for."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        place = self.places[int(index)]
        with place.shard.open("rb") as file:
            file.seek(place.start)
            return file.read(place.size)


class WebDataset(DatasetSource[WebDatasetOptions]):
    """Items of all shards, in the order of their names; shards called train*, val*, test* are splits."""

    options = WebDatasetOptions

    def load(self, options: WebDatasetOptions) -> Samples:
        """List the items.

        Raises:
            DataError: no shards, one that can't be read, or fewer than two classes.
        """
        shards = sorted(options.path.glob("*.tar")) if options.path.is_dir() else [options.path]
        if not shards or not all(shard.is_file() for shard in shards):
            raise DataError(f"there are no .tar files at {options.path}")
        places, labels, names, splits, broken = [], [], [], [], []
        for shard in shards:
            for stem, members in _items(shard):
                name = f"{shard.name}:{stem}"
                try:
                    place, label = _item(shard, members, options)
                except DataError as error:
                    broken.append(f"{name}: {error.message}")
                    continue
                places.append(place)
                labels.append(label)
                names.append(name)
                splits.append(next((split for split in _SPLITS if shard.name.startswith(split)), ""))
        classes = sorted(set(labels), key=lambda one: (0, int(one), "") if one.isdigit() else (1, 0, one))
        if len(classes) < 2:
            first = f" (the first of {len(broken)} that can't be used: {broken[0]})" if broken else ""
            raise DataError(
                f"{options.path} has too few classes, {len(classes)}{first}; at least 2 are needed"
            )
        index = {name: number for number, name in enumerate(classes)}
        return Samples(
            items=Pictures(places),
            labels=[index[label] for label in labels],
            classes=tuple(classes),
            names=names,
            splits=splits if all(splits) and "train" in splits and len(set(splits)) > 1 else None,
            broken=tuple(broken),
        )


def _items(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Stems of a shard, each with its members by ending; members of one stem follow each other."""
    stem, members = "", {}
    try:
        with tarfile.open(shard, "r:") as file:
            for member in file:
                folder, _, base = member.name.rpartition("/")
                head, dot, ending = base.partition(".")
                if not member.isreg() or not dot or not head:
                    continue
                key = f"{folder}/{head}" if folder else head
                if key != stem:
                    if members:
                        yield stem, members
                    stem, members = key, {}
                members[ending.lower()] = member
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shard} is no tar file that can be read: {error}") from None
    if members:
        yield stem, members


def _item(shard: Path, members: dict[str, tarfile.TarInfo], options: WebDatasetOptions) -> tuple[Place, str]:
    picture = next((member for ending, member in members.items() if ending.split(".")[-1] in PICTURES), None)
    if picture is None:
        raise DataError("no picture")
    if options.label not in members:
        raise DataError(f"no .{options.label}")
    label = members[options.label]
    if label.size > LABEL_BYTES:
        raise DataError(f".{options.label} has {label.size:,} bytes")
    with shard.open("rb") as file:
        file.seek(label.offset_data)
        text = file.read(label.size)
    return Place(shard, picture.offset_data, picture.size), _label(text, options)


def _label(content: bytes, options: WebDatasetOptions) -> str:
    try:
        text = content.decode("utf-8").strip()
        if options.label == "json":
            text = str(json.loads(text)[options.key])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f".{options.label} tells no label ({type(error).__name__}: {error})") from None
    if not text:
        raise DataError(f".{options.label} is empty")
    if options.classes is None:
        return text
    try:
        return options.classes[int(text)] if text not in options.classes else text
    except (ValueError, IndexError):
        raise DataError(f"label {text!r} is none of the {len(options.classes)} classes") from None
