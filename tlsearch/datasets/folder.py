"""Images in folders named after their classes, with or without ``train``/``val``/``test`` above them."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.errors import DataError

IGNORED_SUFFIXES = frozenset(
    {
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".xml", ".html", ".htm", ".pdf", ".log"),
        *(".yaml", ".yml", ".toml", ".ini", ".cfg", ".db", ".sqlite", ".parquet", ".mat", ".npy", ".npz"),
        *(
            ".zip",
            ".tar",
            ".gz",
            ".tgz",
            ".7z",
            ".rar",
            ".py",
            ".sh",
            ".ipynb",
            ".pkl",
            ".h5",
            ".md5",
            ".lnk",
        ),
    }
)
"""Endings of what lies beside images. All other files are taken: a wrong ending doesn't spoil an image."""

IGNORED_NAMES = frozenset({"readme", "license", "licence", "copying", "sha256sums", "md5sums", "__macosx"})

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUT = "Right is one folder per class with its images inside, or train/, val/ and test/ of such folders."


class FolderOptions(DatasetOptions):
    """Where the folders are."""

    path: Annotated[Path, Field(strict=False)]


class Folder(DatasetSource[FolderOptions]):
    """Class folders under a path. The order of items, named by their paths, is the same on any machine."""

    options = FolderOptions

    def load(self, options: FolderOptions) -> Samples:
        """List the images of all class folders, at any depth.

        ``train/``, ``val/`` (or ``valid/``, ``validation/``) and ``test/`` are splits where ``train/`` has
        folders of its own and nothing speaks against it; ``val/`` and ``test/`` may be missing.

        Raises:
            DataError: no such folder, fewer than two classes, an empty class, classes that differ between
                splits, or a class that is a link out of the folder.
        """
        root = _root(options.path)
        places = _split_folders(root)
        found = _Found(root)
        for split, place in places.items():
            classes = _folders(place, root)
            if len(classes) < 2 and split in ("", "train"):
                raise DataError(
                    f"{place} holds {_counted(list(classes))}; at least 2 are needed", hint=_LAYOUT
                )
            for name, folder in classes.items():
                found.add(name, folder, split)
        _same_classes({split: found.classes(split) for split in places}, places)
        return found.samples(has_splits=set(places) != {""})


@dataclass(slots=True)
class _Found:
    """What the walk has met so far."""

    root: Path
    rows: list[tuple[bytes, str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, label: str, folder: Path, split: str) -> None:
        before = len(self.rows)
        for path, reason in _walk(folder, self.root, ancestors=(_identity(folder),)):
            name = path.relative_to(self.root)
            if reason:
                self.broken.append(f"{printable(name.as_posix())}: {reason}")
            else:
                self.rows.append((os.fsencode(name.as_posix()), label, split))
        if len(self.rows) == before:
            raise DataError(
                f"class folder {folder} holds no image", hint="Put images in it, or remove the folder."
            )

    def classes(self, split: str) -> set[str]:
        return {label for _, label, where in self.rows if where == split}

    def samples(self, *, has_splits: bool) -> Samples:
        rows = sorted(self.rows)
        classes = sorted({label for _, label, _ in rows}, key=os.fsencode)
        index = {label: number for number, label in enumerate(classes)}
        return Samples(
            items=[self.root / os.fsdecode(name) for name, _, _ in rows],
            labels=[index[label] for _, label, _ in rows],
            classes=tuple(printable(label) for label in classes),
            names=[printable(os.fsdecode(name)) for name, _, _ in rows],
            splits=[split for _, _, split in rows] if has_splits else None,
            broken=tuple(sorted(self.broken)),
        )


def printable(name: str) -> str:
    """A file name as one that can be printed and stored: valid UTF-8, no orders to a terminal."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


def refusal(path: Path, root: Path) -> str | None:
    """Why a path can't be taken as a file of the data set: a reason, or None where it can.

    Args:
        path: absolute; links in it are followed.
        root: the folder that it must not leave, with all links resolved.
    """
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "no such file"
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop, up to Python 3.12
        loop = isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP
        return "a loop of links" if loop else f"can't be read ({getattr(error, 'strerror', None) or error})"
    if not real.is_relative_to(root):
        return f"leads out of {root}"
    if stat.S_ISDIR(mode):
        return "a directory, not a file"
    return None if stat.S_ISREG(mode) else "a FIFO, socket or device, not a file"


def _root(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"there is no folder {path}", hint=_LAYOUT) from error
    if not root.is_dir():
        raise DataError(f"{path} is not a folder", hint=_LAYOUT)
    return root


def _split_folders(root: Path) -> dict[str, Path]:
    """Split to folder; the one key ``""`` where there are class folders at once."""
    folders = _folders(root, root)
    splits = {name: folder for name, folder in folders.items() if name in _SPLITS}
    others = sorted(set(folders) - set(splits))
    if "train" not in splits or not _folders(splits["train"], root):
        if splits and not others and "train" not in splits:
            raise DataError(f"{root} has {_counted(list(splits))} but no train/", hint=_LAYOUT)
        return {"": root}
    if others and len(splits) == 1:  # could be a class called "train"
        raise DataError(
            f"{root} has train/ with folders in it, beside {_counted(others)}: splits or classes?",
            hint=_LAYOUT,
        )
    names = [_SPLITS[name] for name in splits]
    if len(set(names)) < len(names):
        raise DataError(f"{root} has more than one validation folder: {_counted(list(splits))}", hint=_LAYOUT)
    return {_SPLITS[name]: folder for name, folder in splits.items()}


def _folders(place: Path, root: Path) -> dict[str, Path]:
    """The folders right in a place, by name. One that is a link out of the root is an error here."""
    found = {}
    for entry in _entries(place):
        if not entry.is_dir():
            continue
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            raise DataError(
                f"{entry.path} is a link that leaves {root}", hint="Put the folder itself in its place."
            )
        found[entry.name] = Path(entry.path)
    return found


def _walk(folder: Path, root: Path, *, ancestors: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, with the reason why it can't be taken, or an empty one."""
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_symlink():
            reason = refusal(path, root) or ""
            if not reason.startswith("a directory"):
                yield path, reason
            elif _identity(path) in ancestors:
                yield path, "a loop of links"
            else:
                yield from _walk(path, root, ancestors=(*ancestors, _identity(path)))
        elif entry.is_dir():
            yield from _walk(path, root, ancestors=(*ancestors, _identity(path)))
        elif entry.is_file():
            yield path, ""
        else:
            yield path, "a FIFO, socket or device, not a file"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _ignored(entry.name)]
    except OSError as error:
        raise DataError(f"folder {folder} can't be read ({error.strerror})") from error


def _ignored(name: str) -> bool:
    stem, suffix = os.path.splitext(name.lower())
    return name.startswith(".") or suffix in IGNORED_SUFFIXES or stem in IGNORED_NAMES


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


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
    shown = ", ".join(f'"{printable(name)}"' for name in sorted(names)[:5])
    return f"{len(names)} folder{'s' if len(names) > 1 else ''} ({shown}{', ...' if len(names) > 5 else ''})"
