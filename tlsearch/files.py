"""Files that are there whole or not at all, and the checksums that prove it."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from tlsearch.records import Artifact


def write_durably(path: Path, write: Callable[[Path], object]) -> Artifact:
    """Let ``write`` fill a draft beside ``path``; flush it to disk, then rename it into place.

    Returns:
        The file with its checksum and size.

    Raises:
        OSError: the disk is full or not writable; no draft is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    try:
        write(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        artifact = Artifact(uri=str(path), sha256=sha256_of(draft), bytes=draft.stat().st_size)
        draft.replace(path)
        flush_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return artifact


def flush_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
