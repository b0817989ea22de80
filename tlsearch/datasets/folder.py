"""Images in folders named after their classes, with or without ``train``/``val``/``test`` above them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tlsearch import walk
from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.names import class_name, printable, split_of

_LAYOUT = "Right is one folder per class with its images inside, or train/, val/ and test/ of such folders."
NOT_CLASSES = frozenset(("annotations", "annotation", "labels", "label", "masks", "boxes", "bboxes", "xml"))
"""What folders beside images/ are called, not classes."""
_FOLD = re.compile(r"(k?fold|cv|split|part|chunk|batch)[\s_-]*\d+", re.IGNORECASE)
"""A part of a data set, of a cross-validation for instance."""
_NUMBERS = re.compile(r"^\d+[\W_]+|[\W_]*\d[\W\d_]*$")
"""What counts pictures in their names: ``cat_012``, ``cat.12``, ``12 cat``."""
_SAY = "`splits: false` in the data section takes every folder as a class."


class FolderOptions(DatasetOptions):
    """Where the folders are.

    Attributes:
        path: of the folder.
        splits: whether folders called like splits (train, Testing, dev, ...) are splits. Found out by how the
            folders stand where it is left out; false takes them as classes.
    """

    path: Annotated[Path, Field(strict=False)]
    splits: bool | None = None


class Folder(DatasetSource[FolderOptions]):
    """Class folders under a path. The order of items, named by their paths, is the same on any machine."""

    options = FolderOptions

    def load(self, options: FolderOptions) -> Samples:
        """List the images of all class folders, at any depth.

        Folders called like splits, in any case (train, Training, val, valid, dev, test, Testing, holdout),
        are splits where the one for training has folders of its own; the others may be missing.

        Raises:
            DataError: no such folder, fewer than two classes, an empty class, classes that differ between
                splits, folders that may be splits as well as classes, or a class that is a link out of the
                folder.
        """
        root = _root(options.path)
        found = _Found(root)
        places = {"": root} if options.splits is False else _places(root, found, sure=bool(options.splits))
        for split, place in places.items():
            found.add_split(split, place)
        _same_classes({split: found.classes(split) for split in places}, places)
        return found.samples(has_splits=set(places) != {""})


@dataclass(slots=True)
class _Found:
    """What the walk has met so far."""

    root: Path
    rows: list[tuple[bytes, str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    left: walk.Left = field(default_factory=walk.Left)
    notes: list[str] = field(default_factory=list)

    def add_split(self, split: str, place: Path) -> None:
        folders = walk.folders(place, self.root)
        names: dict[str, list[str]] = {}
        for name in folders:
            names.setdefault(class_name(os.fsdecode(os.fsencode(name))), []).append(name)
        if len(names) < 2 and split in ("", "train"):
            raise DataError(
                f"{place} holds {_counted(list(folders))}; at least 2 are needed",
                hint=_inner(folders, self.root) or _loose(place) or _LAYOUT,
            )
        self.notes += _doubts(folders, self.root)
        for label, spellings in names.items():
            if len(spellings) > 1:
                self.notes.append(f'{len(spellings)} folders are spelt alike and are one class: "{label}"')
            self._add(label, [folders[name] for name in spellings], split)
        self.count_strays(place)

    def count_strays(self, place: Path) -> None:
        """Files right in a place where folders are expected, and those in folders that systems keep."""
        for entry in walk.entries(place):
            name = Path(entry.path).relative_to(self.root).as_posix()
            if not os.path.isdir(entry.path):
                self.left.add(walk.beside(entry.name) or "beside the class folders", name)
            elif walk.kept_by_systems(entry.name):
                self.left.add("in folders that are hidden or kept by the system", f"{name}/", _inside(entry))

    def _add(self, label: str, folders: list[Path], split: str) -> None:
        rows, broken = len(self.rows), len(self.broken)
        for folder in folders:
            self._take(folder, label, split, self.left)
        if len(self.rows) > rows:
            return
        if len(self.broken) == broken:  # no picture: NumPy's files are items then
            for folder in folders:
                self._take(folder, label, split, walk.Left(), arrays=True)
            if len(self.rows) > rows:
                self.left.forget(walk.ARRAY)
                return
        where = printable(str(folders[0]))
        if refused := self.broken[broken:]:
            links = any("leads out" in line for line in refused)
            raise DataError(
                f"class folder {where} holds no image that can be taken, of {len(refused)}: {refused[0]}",
                hint="Links must not leave the data's folder: copy the files themselves (cp -rL)."
                if links
                else "Put images in it, or remove the folder.",
            )
        others = sorted(
            {Path(name).suffix.lower() for folder in folders for name in _names_in(folder)} - {""}
        )
        told = f", but files ending in {', '.join(others[:3])}" if others else ""
        hint = "Put images in it, or remove the folder."
        if folders[0].name.lower() in NOT_CLASSES:
            hint = f"Annotations of boxes or masks? None was found there that can be read. {hint}"
        raise DataError(f"class folder {where} holds no image{told}", hint=hint)

    def _take(self, folder: Path, label: str, split: str, left: walk.Left, *, arrays: bool = False) -> None:
        for path, reason in walk.files(folder, self.root, left, arrays=arrays):
            name = path.relative_to(self.root)
            if reason:
                self.broken.append(f"{printable(name.as_posix())}: {reason}")
            else:
                self.rows.append((os.fsencode(name.as_posix()), label, split))

    def classes(self, split: str) -> set[str]:
        return {label for _, label, where in self.rows if where == split}

    def samples(self, *, has_splits: bool) -> Samples:
        rows = sorted(self.rows)
        classes = sorted({label for _, label, _ in rows}, key=os.fsencode)
        index = {label: number for number, label in enumerate(classes)}
        return Samples(
            items=[self.root / os.fsdecode(name) for name, _, _ in rows],
            labels=[index[label] for _, label, _ in rows],
            classes=tuple(classes),
            names=[printable(os.fsdecode(name)) for name, _, _ in rows],
            splits=[split for _, _, split in rows] if has_splits else None,
            broken=tuple(sorted(self.broken)),
            notes=(*self.notes, *self.left.told()),
        )


def _root(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"there is no folder {path}", hint=_LAYOUT) from error
    if not root.is_dir():
        raise DataError(f"{path} is not a folder", hint=_LAYOUT)
    return root


def _places(root: Path, found: _Found, *, sure: bool) -> dict[str, Path]:
    """Split to folder; the one key ``""`` where there are class folders at once.

    Args:
        root: of the data.
        found: told what was understood, and what is left out.
        sure: the user says that there are splits.
    """
    folders = walk.folders(root, root)
    named = {name: split for name in folders if (split := split_of(name)) is not None}
    others = {name: folder for name, folder in folders.items() if name not in named}
    deep = [name for name, split in named.items() if split == "train" and walk.folders(folders[name], root)]
    if sure and not deep:
        raise DataError(f"{root} has no train/ with class folders in it", hint=_LAYOUT)
    if not deep:
        _refuse_unclear(root, list(named), list(others))
        _no_splits_inside(root, folders)
        if named:
            found.notes.append(f'the folder "{next(iter(named))}" is taken as a class, not as a split')
        return {"": root}
    full = {name: folder for name, folder in others.items() if walk.holds_items(folder, root)}
    if full and len(named) == 1 and not sure:  # could be a class called "train"
        raise DataError(
            f"{root} has {deep[0]}/ with folders in it, beside {_counted(list(full))}: splits or classes?",
            hint=f"{_SAY} `splits: true` leaves out all but {deep[0]}/.",
        )
    for name, folder in others.items():
        found.left.add("in folders beside the splits", f"{name}/", walk.count_files(folder))
    places: dict[str, Path] = {}
    for name, split in named.items():
        if split in places:
            kind = {"train": "training", "val": "validation", "test": "test"}[split]
            raise DataError(f"{root} has more than one {kind} folder: {_counted(list(named))}", hint=_LAYOUT)
        if walk.folders(folders[name], root):
            places[split] = folders[name]
        else:  # pictures that nobody has labelled, most often
            found.left.add(
                "in a split without class folders", f"{name}/", max(1, walk.count_files(folders[name]))
            )
    found.count_strays(root)
    told = [f"{place.name}/ is {split}" for split, place in places.items() if place.name != split]
    found.notes += [f"understood as splits: {', '.join(told)}"] if told else []
    return places


def _refuse_unclear(root: Path, named: list[str], others: list[str]) -> None:
    """Refuse folders called like splits, none for training with classes, unless they must be classes."""
    kinds = {split_of(name) for name in named}
    if not named or (kinds == {"train"} and others):  # a train is also what runs on rails
        return
    if others:
        raise DataError(
            f"{root} has {_counted(named)} beside {_counted(others)}: splits or classes?",
            hint=f"{_LAYOUT} {_SAY}",
        )
    if "train" in kinds:
        raise DataError(
            f"{root} has {_counted(named)} without class folders in them", hint=f"{_LAYOUT} {_SAY}"
        )
    raise DataError(f"{root} has {_counted(named)} but no train/", hint=f"{_LAYOUT} {_SAY}")


def _no_splits_inside(root: Path, folders: Mapping[str, Path]) -> None:
    """Refuse splits that stand below the classes: mixed, a score on them would be of what was trained on."""
    inside = [
        {split_of(inner) for inner in walk.folders(folder, root, peek=True)} for folder in folders.values()
    ]
    if len(inside) > 1 and all("train" in splits and splits & {"val", "test"} for splits in inside):
        raise DataError(
            f"{root}: its class folders hold splits of their own, which would be mixed",
            hint=f"Put the splits above the classes: train/CLASS/, test/CLASS/. {_SAY}",
        )


def _doubts(folders: Mapping[str, Path], root: Path) -> list[str]:
    """Sentences on class folders that may be none.

    Raises:
        DataError: they are called like parts of the data, and the classes stand in each of them.
    """
    inside = [set(walk.folders(folder, root, peek=True)) for folder in folders.values()]
    alike = len(inside) > 1 and len(inside[0]) > 1 and all(names == inside[0] for names in inside)
    parts = bool(folders) and all(map(_FOLD.fullmatch, folders))
    if parts and alike:
        raise DataError(
            f"{root} has {_counted(list(folders))}, which hold {_counted(list(inside[0]))} each: folds of a"
            " cross-validation are no classes",
            hint="Put all images of a class into one folder, or write a table with image, label and a"
            " group_column that names the fold.",
        )
    if parts:
        return [f"{_counted(list(folders))} are taken as classes, and are called like parts of a data set"]
    if alike:
        return [
            f"{_counted(list(folders))} are taken as classes, and each holds {_counted(list(inside[0]))}:"
            " if these are the classes, put them above"
        ]
    return []


def _names_in(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


def _inside(entry: os.DirEntry[str]) -> int:
    return 0 if entry.is_symlink() else walk.count_files(Path(entry.path))


def _inner(folders: Mapping[str, Path], root: Path, *, depth: int = 3) -> str | None:
    """Where to point at instead, where the classes are up to ``depth`` folders deeper."""
    if len(folders) != 1 or not depth:
        return None
    (only,) = folders.values()
    inside = walk.folders(only, root, peek=True)
    if len(inside) == 1:
        return _inner(inside, root, depth=depth - 1)
    return f"Did you mean {only}? It holds {_counted(list(inside))}." if len(inside) > 1 else None


def _loose(place: Path) -> str | None:
    """What to do with files that lie in no folder; None where there are none."""
    here = [entry.name for entry in walk.entries(place) if not os.path.isdir(entry.path)]
    stems = [Path(name).stem for name in here if walk.beside(name) is None]
    if not stems:
        return None
    told = f"{plural(len(stems), 'file')} {'lies' if len(stems) == 1 else 'lie'} right in it"
    names = sorted({_NUMBERS.sub("", stem) for stem in stems})
    if 2 <= len(names) <= len(stems) // 2 and all(names):
        told += f", and their names hold {_some(names)}: are these the classes"
        told += "? Then put each file into a folder of that name"
    else:
        told += ": put each into a folder of its class"
    return f"{told}, or list them in a table with the columns image and label."


def _same_classes(classes: Mapping[str, set[str]], places: Mapping[str, Path]) -> None:
    for split, names in classes.items():
        for one, other, place in (
            (names, classes.get("train", names), "train"),
            (classes.get("train", names), names, split),
        ):
            if extra := sorted(one - other):
                raise DataError(
                    f"{places['train'].parent} has different classes in train and {split}: {place} lacks"
                    f" {_counted(extra)}",
                    hint="Every split needs the same class folders.",
                )


def _counted(names: list[str]) -> str:
    if not names:
        return "no folder"
    return f"{plural(len(names), 'folder')} ({_some(names)})"


def _some(names: list[str]) -> str:
    shown = ", ".join(f'"{printable(name)}"' for name in sorted(names)[:5])
    return f"{shown}, ..." if len(names) > 5 else shown
