"""Pictures with a mask for each: folders with equal names, or a table with columns of images and of masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tlsearch import walk
from tlsearch.contracts import masks
from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.counts import plural
from tlsearch.datasets.table import RowOptions, read_rows
from tlsearch.datasets.table_paths import Found
from tlsearch.errors import DataError
from tlsearch.names import printable, split_of
from tlsearch.tables import read_table

IMAGES = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "inputs", "bilder", "fotos")
MASKS = (
    *("masks", "mask", "segmentationclass", "segmentations", "segmentation", "annotations", "labels"),
    *("ground_truth", "groundtruth", "gt", "targets", "masken"),
)
"""What folders of pictures and of masks are called, in any case."""
ENDINGS = ("_mask", "-mask", "_seg", "_label", "_labels", "_gt", "_segmentation")
"""What the name of a mask may have behind that of its picture."""
LAYOUT = (
    "Right are two folders, images/ and masks/, with files of equal names in them (images/a/1.jpg, "
    "masks/a/1.png), or a table with the columns image and mask."
)
_Int = Annotated[int, Field(strict=False)]


class MaskOptions(DatasetOptions):
    """Where pictures and masks are, and what the masks' values mean.

    Attributes:
        path: a folder with ``images/`` and ``masks/`` in it, perhaps below ``train/``, ``val/``, ``test/``;
            or a ``.csv``, ``.tsv`` or ``.parquet`` file.
        images: what the folder of pictures is called; found out where it is left out.
        masks: what the folder of masks is called; found out where it is left out.
        image_column: of a table: paths of pictures.
        mask_column: of a table: paths of masks.
        root: of a table: folder that paths are relative to and must not leave; the table's own by default.
        split_column: of a table: as for ``source: table``.
        group_column: of a table: as for ``source: table``.
        classes: names by the values in the masks, ``{0: background, 1: crack}``; all values where left out.
        ignore: values of pixels that are of no class, such as an outline; 255 where masks have more than two
            values.
        threshold: for drawings with soft edges: from this grey level on, a pixel is foreground (255), else 0.
        mask_size: side of the square that masks are learned and measured at; by their own size, and at most
            256, where it is left out.
    """

    path: Annotated[Path, Field(strict=False)]
    images: str | None = None
    masks: str | None = None
    image_column: str = "image"
    mask_column: str = "mask"
    root: Annotated[Path, Field(strict=False)] | None = None
    split_column: str | None = "split"
    group_column: str | None = None
    classes: dict[_Int, str] = {}
    ignore: Annotated[tuple[_Int, ...], Field(strict=False)] = ()
    threshold: Annotated[int, Field(ge=1, le=65535)] | None = None
    mask_size: Annotated[int, Field(ge=8, le=1024)] | None = None


class Masks(DatasetSource[MaskOptions]):
    """Pairs of pictures and masks. The order of items, named by their paths, is the same on any machine."""

    task = "segmentation"
    options = MaskOptions

    @classmethod
    def suits(cls, path: Path) -> bool:
        """Whether a folder has folders of images and of masks, or a table such columns."""
        try:
            if path.is_dir():
                return bool(_places(path.resolve(), MaskOptions(path=path)))
            return {"image", "mask"} <= set(read_table(path).columns)
        except (DataError, OSError):
            return False

    def load(self, options: MaskOptions) -> Samples:
        """List the pairs, and code every mask.

        A picture without a mask, a mask without a picture or of another size, and one with values that no
        class has are broken items.

        Raises:
            DataError: nothing is there, or masks that nothing can be learned of.
        """
        found = _table(options) if options.path.is_file() else _folder(options)
        if not found.pairs:
            first = f" The first problem of {len(found.broken)}: {found.broken[0]}" if found.broken else ""
            raise DataError(f"{options.path} holds no picture with a mask.{first}", hint=LAYOUT)
        words = masks.MaskWords(options.classes, options.ignore, options.threshold, options.mask_size)
        misfits = masks.in_threads(_misfit, found.pairs)
        fitting = [pair for pair, why in zip(found.pairs, misfits, strict=True) if not why]
        broken = [f"{p.name}: {why}" for p, why in zip(found.pairs, misfits, strict=True) if why]
        if not fitting:
            raise DataError(f"{options.path} holds no pair that fits: {broken[0]}", hint=LAYOUT)
        try:
            understood = masks.understand([pair.mask for pair in fitting], words)
        except DataError as error:
            raise DataError(f"{options.path}: {error.message}", hint=error.hint) from None
        broken += [f"{fitting[at].name}: {why}" for at, why in understood.broken.items()]
        kept = [pair for at, pair in enumerate(fitting) if at not in understood.broken]
        if not kept:
            raise DataError(f"{options.path} holds no usable mask: {broken[0]}", hint=LAYOUT)
        spec = understood.spec
        coded = masks.in_threads(lambda pair: masks.code(pair.mask, spec), kept)
        return Samples(
            items=[pair.image for pair in kept],
            targets=masks.stacked(coded, spec),
            spec=spec,
            names=[pair.name for pair in kept],
            splits=[pair.split for pair in kept] if any(pair.split for pair in kept) else None,
            groups=[pair.group for pair in kept] if any(pair.group for pair in kept) else None,
            broken=(*found.broken, *broken),
            notes=(*found.notes, *understood.notes),
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    image: Path
    mask: Path
    name: str
    split: str = ""
    group: str = ""


@dataclass(slots=True)
class _Pairs:
    pairs: list[_Pair] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _misfit(pair: _Pair) -> str:
    """Why a pair can't be used, or an empty text. Unreadable pictures are left to those who decode them."""
    try:
        wide, high = masks.size_of(pair.mask)
    except DataError as error:
        return f"its mask {error.message}"
    try:
        size = masks.size_of(pair.image)
    except DataError:
        return ""
    if size == (wide, high):
        return ""
    return f"the picture has {size[0]} x {size[1]} pixels and its mask {wide} x {high}"


# --------------------------------------------------------------------------------------------------- folders


def _folder(options: MaskOptions) -> _Pairs:
    try:
        root = options.path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"there is no folder {options.path}", hint=LAYOUT) from error
    places = _places(root, options)
    if not places:
        raise DataError(f"{root} has no folders of images and of masks beside each other.", hint=LAYOUT)
    found, left = _Pairs(), walk.Left()
    for split, (images, drawn) in places.items():
        _match(root, images, drawn, split, found, left)
    found.pairs.sort(key=lambda pair: os.fsencode(pair.name))
    found.notes += left.told()
    return found


def _places(root: Path, options: MaskOptions) -> dict[str, tuple[Path, Path]]:
    """The folders of pictures and of masks by split; the one key ``""`` where they are right in the root."""
    here = _two(root, root, options)
    if here is not None:
        return {"": here}
    found = {}
    for name, folder in walk.folders(root, root).items():
        split = split_of(name)
        inside = _two(folder, root, options) if split else None
        if split and inside is not None:
            if split in found:
                raise DataError(f"{root} has more than one folder for {split}", hint=LAYOUT)
            found[split] = inside
    if found and "train" not in found:
        raise DataError(f"{root} has no train/ with images and masks in it", hint=LAYOUT)
    return found


def _two(place: Path, root: Path, options: MaskOptions) -> tuple[Path, Path] | None:
    folders = walk.folders(place, root, peek=True)
    lower = {name.lower(): folder for name, folder in folders.items()}

    def chosen(given: str | None, known: Sequence[str]) -> Path | None:
        if given is not None:
            return folders.get(given)
        return next((lower[name] for name in known if name in lower), None)

    images, drawn = chosen(options.images, IMAGES), chosen(options.masks, MASKS)
    if images is None or drawn is None or not walk.holds_items(drawn, root):  # annotations may be of boxes
        return None
    return images, drawn


def _match(root: Path, images: Path, drawn: Path, split: str, found: _Pairs, left: walk.Left) -> None:
    """Pair the files of two folders by their paths without ending."""
    known: dict[str, list[Path]] = {}
    for path, why in walk.files(drawn, root, left):
        if why:
            found.broken.append(f"{_named(path, root)}: {why}")
        else:
            known.setdefault(_key(path, drawn), []).append(path)
    used: set[str] = set()
    for path, why in walk.files(images, root, left):
        name, key = _named(path, root), path.relative_to(images).with_suffix("").as_posix()
        own = known.get(key, [])
        if why:
            found.broken.append(f"{name}: {why}")
        elif len(own) == 1:
            # images/train/..., masks/train/...: the splits may stand below.
            below = split_of(path.relative_to(images).parts[0]) if not split else None
            inside = len(path.relative_to(images).parts) > 1
            found.pairs.append(_Pair(path, own[0], name, (below or "") if inside else split or ""))
        else:
            told = ", ".join(one.name for one in own)
            why = f"has several masks: {told}" if own else _lacking(drawn, root, key)
            found.broken.append(f"{name}: {why}")
        used.add(key)
    found.broken += [
        f"{_named(paths[0], root)}: a mask without a picture"
        for key, paths in known.items()
        if key not in used
    ]


def _lacking(drawn: Path, root: Path, key: str) -> str:
    return f"has no mask, which would be {(drawn.relative_to(root) / key).as_posix()}.png"


def _key(mask: Path, drawn: Path) -> str:
    stem = mask.relative_to(drawn).with_suffix("").as_posix()
    ending = next((ending for ending in ENDINGS if stem.lower().endswith(ending)), "")
    return stem[: len(stem) - len(ending)]


def _named(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


# ---------------------------------------------------------------------------------------------------- tables


def _table(options: MaskOptions) -> _Pairs:
    root = (options.root or options.path.parent).resolve()
    given = {"split_column": options.split_column} if "split_column" in options.model_fields_set else {}
    rows = read_rows(
        RowOptions(
            path=options.path, label_column=options.mask_column, group_column=options.group_column, **given
        ),
        "image",
        options.image_column,
    )
    cells = rows.cells
    files = Found(root)
    found = _Pairs(notes=list(rows.notes))
    columns = (cells["image"], cells[f"label:{options.mask_column}"])
    for row, (image, mask) in enumerate(zip(*columns, strict=True)):
        name = printable(image) or f"row {row + 1}"
        paths = [files.path(cell) if cell else None for cell in (image, mask)]
        reasons = [
            f"no {kind} path" if path is None else walk.refusal(path, root)
            for kind, path in zip(("image", "mask"), paths, strict=True)
        ]
        picture, drawn = paths
        if picture is None or drawn is None or any(reasons):
            kind = "image" if reasons[0] else "mask"
            found.broken.append(f"row {row + 1} ({name}): {kind}: {reasons[0] or reasons[1]}")
            continue
        split = split_of(cells["split"][row]) if "split" in cells else ""
        if split is None:
            raise DataError(
                f'{options.path}, row {row + 1}: "{cells["split"][row]}" is none of train, val and test',
                hint="Set split_column: null if the column means something else.",
            )
        found.pairs.append(
            _Pair(picture, drawn, name, split, cells["group"][row] if "group" in cells else "")
        )
    found.notes += [
        f"{plural(count, 'path')} in {options.path.name}: {why}" for why, count in files.counts.items()
    ]
    return found
