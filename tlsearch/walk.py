"""The files of a folder that may be items, and a word on all that isn't taken."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.names import printable

SUFFIXES_BESIDE = frozenset(
    [
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".md",
        ".rst",
        ".xml",
        ".html",
        ".htm",
        ".pdf",
        ".log",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".cfg",
        ".db",
        ".sqlite",
        ".parquet",
        ".mat",
        ".npy",
        ".npz",
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
        ".sha256",
        ".lnk",
        ".url",
        ".xls",
        ".xlsx",
        ".doc",
        ".docx",
        ".mp4",
        ".avi",
        ".mov",
    ]
)
"""Endings of what lies beside images. All other files are taken: a wrong ending doesn't spoil an image."""

ARRAY = ".npy"
"""Ending of what lies beside pictures, and is one in a folder without any other."""

NAMES_BESIDE = frozenset(
    ["readme", "license", "licence", "copying", "sha256sums", "md5sums", "makefile", "dockerfile"]
)
"""Files without an ending that are no images."""

SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin"),
        *("system volume information", "lost+found", "__macosx", "__pycache__", "thumbnails_cache"),
    )
)
"""What systems and network drives keep beside pictures, such as thumbnails and deleted files."""


@dataclass(slots=True)
class Left:
    """What was not taken: files by the reason for it, and an example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count ``count`` files."""
        if count:
            self.counts[reason] += count
            self.examples.setdefault(reason, name)

    def forget(self, ending: str) -> None:
        """Files of an ending that were taken after all."""
        self.counts.pop(f"ending in {ending}", None)

    def told(self) -> tuple[str, ...]:
        """A sentence for each reason."""
        return tuple(
            f"left out: {plural(count, 'file')} {reason}, such as {printable(self.examples[reason])}"
            for reason, count in sorted(self.counts.items())
        )


def kept_by_systems(name: str) -> bool:
    """Whether a folder is one that systems hide or keep for themselves."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def beside(name: str) -> str | None:
    """Why a file of that name is no item, or None where it may be one."""
    stem, suffix = os.path.splitext(name.lower())
    if name.startswith(".") or name.lower() in SYSTEM_FILES or stem.startswith("synofile_thumb"):
        return "hidden or kept by the system"
    if suffix in SUFFIXES_BESIDE:
        return f"ending in {suffix}"
    return "that say what the data is" if not suffix and stem in NAMES_BESIDE else None


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is right in a folder.

    Raises:
        DataError: it can't be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"folder {folder} can't be read ({error.strerror})") from error


def folders(place: Path, root: Path, *, peek: bool = False) -> dict[str, Path]:
    """The folders right in a place, by name, but for those that systems keep.

    Raises:
        DataError: one is a link out of the root; with ``peek`` it only isn't counted.
    """
    found = {}
    for entry in entries(place):
        if not os.path.isdir(entry.path) or kept_by_systems(entry.name):
            continue
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            if peek:
                continue
            raise DataError(
                f"{entry.path} is a link that leaves {root}", hint="Put the folder itself in its place."
            )
        found[entry.name] = Path(entry.path)
    return found


def files(folder: Path, root: Path, left: Left, *, arrays: bool = False) -> Iterator[tuple[Path, str]]:
    """Every file at any depth that may be an item, with the reason why it can't be taken, or an empty one.

    Args:
        folder: where to look.
        root: what links must not leave, resolved.
        left: is told of all else that is there.
        arrays: whether NumPy's files are items, which lie beside pictures otherwise.

    Raises:
        DataError: a folder can't be read.
    """
    # Found below the root as it is written; where links lead is compared with the root itself. One that leads
    # to what the folder lies in would bring the items of all its neighbours.
    above = (place for place in folder.resolve().parents if place.is_relative_to(root))
    ancestors = tuple(map(_identity, (folder, *above)))
    yield from _walk(folder, root, left, ancestors=ancestors, arrays=arrays)


def overlooked(folder: Path, *, arrays: bool = False) -> tuple[str, ...]:
    """Sentences on what in a folder is no item, or can't be taken; ``arrays`` as in `files`."""
    left = Left()
    broken = [(path, why) for path, why in files(folder, folder.resolve(), left, arrays=arrays) if why]
    named = tuple(f"set aside: {printable(str(path))}: {why}" for path, why in broken)
    return (*left.told(), *named)


def count_files(folder: Path) -> int:
    """Files at any depth below a folder; links are not followed."""
    return sum(len(names) for _, _, names in os.walk(folder))


def holds_items(folder: Path, root: Path) -> bool:
    """Whether a folder has any file, at any depth, that may be an item."""
    return next(files(folder, root, Left()), None) is not None


def refusal(path: Path, root: Path) -> str | None:
    """Why a path can't be taken as a file of the data set: a reason, or None where it can.

    Args:
        path: absolute; links in it are followed.
        root: the folder that it must not leave, with all links resolved.
    """
    try:
        real = path.resolve(strict=True)
        mode = path.stat().st_mode  # of the path as it is written: a.png/../b.png is no file
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "no such file"
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop, up to Python 3.12
        loop = isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP
        return "a loop of links" if loop else f"can't be read ({getattr(error, 'strerror', None) or error})"
    if not real.is_relative_to(root):
        return f"leads out of {root}"
    if stat.S_ISDIR(mode):
        return "a directory, not a file"
    return None if stat.S_ISREG(mode) else "a FIFO, socket or device, not a file"


def _walk(
    folder: Path, root: Path, left: Left, *, ancestors: tuple[tuple[int, int], ...], arrays: bool
) -> Iterator[tuple[Path, str]]:
    for entry in entries(folder):
        path = Path(entry.path)
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        directory = os.path.isdir(entry.path)  # False for a loop of links
        if directory and kept_by_systems(entry.name):
            count = 0 if entry.is_symlink() else count_files(path)
            left.add(f"in folders called {entry.name}", name, count)
        elif (
            not directory
            and not (arrays and entry.name.lower().endswith(ARRAY))
            and (reason := beside(entry.name))
        ):
            left.add(reason, name)
        elif entry.is_symlink():
            why = refusal(path, root) or ""
            if not why.startswith("a directory"):
                yield path, why
            elif _identity(path) in ancestors:
                yield path, "a loop of links"
            else:
                yield from _walk(path, root, left, ancestors=(*ancestors, _identity(path)), arrays=arrays)
        elif directory:
            yield from _walk(path, root, left, ancestors=(*ancestors, _identity(path)), arrays=arrays)
        else:
            yield path, "" if entry.is_file() else "a FIFO, socket or device, not a file"


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
