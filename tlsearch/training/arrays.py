"""Content-addressed arrays on disk, memory-mapped and shared by all processes of a node.

Decoded images and frozen activations live here. An entry is a folder of ``.npy`` files and a ``meta.json``,
written beside its place and renamed into it: it is there whole or not at all. A lock per key makes one
process build what several want; the least recently used entries go when the byte limit is passed.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape and NumPy dtype of an array to be stored."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of the array's data."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Entry:
    """Stored arrays, read-only and memory-mapped, and what was noted with them."""

    arrays: tuple[Array, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


class ArrayStore:
    """A folder of entries by key. Safe for many processes; keys are hex digests."""

    def __init__(self, root: Path, *, limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = limit_bytes

    def open(self, key: str) -> Entry | None:
        """The entry, or None where it isn't stored. Marks it as used now."""
        place = self._place(key)
        try:
            entry = _read(place)
            os.utime(place / "meta.json")
        except FileNotFoundError:  # never stored, or evicted between two of these lines
            return None
        return entry

    def get_or_build(
        self,
        key: str,
        specs: Sequence[ArraySpec],
        fill: Callable[[Sequence[Array]], Mapping[str, Any]],
    ) -> Entry:
        """The entry, built by ``fill`` if nobody has stored it yet.

        Args:
            key: hex digest of everything that the content depends on.
            specs: of the arrays to make.
            fill: writes into the arrays (zeros at first) and returns JSON-serializable notes.

        Raises:
            OSError: the disk is full or not writable; nothing half-written stays.
        """
        entry = self.open(key)
        if entry is not None:
            return entry
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f"{key}.lock"):
            # Somebody else may have built it while we waited.
            return self.open(key) or self._build(key, specs, fill)

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, _, size in self._entries())

    def _build(
        self,
        key: str,
        specs: Sequence[ArraySpec],
        fill: Callable[[Sequence[Array]], Mapping[str, Any]],
    ) -> Entry:
        for left in self.root.glob(f"draft-{key}-*"):  # we hold the key's lock: nobody is at it
            shutil.rmtree(left, ignore_errors=True)
        self._sweep()
        self._make_room(sum(spec.bytes for spec in specs))
        place = self._place(key)
        draft = self.root / f"draft-{key}-{uuid.uuid4().hex}"
        draft.mkdir()
        try:
            arrays = [
                np.lib.format.open_memmap(
                    draft / f"{index}.npy", mode="w+", dtype=np.dtype(spec.dtype), shape=spec.shape
                )
                for index, spec in enumerate(specs)
            ]
            notes = fill(arrays)
            for array in arrays:
                array.flush()
            meta = {"arrays": len(arrays), "notes": dict(notes)}
            (draft / "meta.json").write_text(json.dumps(meta))
            # Mapped before others can evict it: where the limit is a few entries, they may do so at once.
            entry = _read(draft)
            place.parent.mkdir(exist_ok=True)
            draft.rename(place)
            return entry
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _make_room(self, needed: int) -> None:
        if self.limit_bytes is None:
            return
        entries = sorted(self._entries())
        # What is being built takes its room already, here or in another process.
        total = needed + sum(size for _, _, size in entries) + sum(map(_size, self.root.glob("draft-*-*")))
        for _, place, size in entries:
            if total <= self.limit_bytes:
                break
            # Out of its place in one step, so that nobody opens half of it. Processes that have it mapped
            # keep their view; the space is freed when they let go.
            gone = self.root / f"draft-{place.name}-{uuid.uuid4().hex}"
            try:
                place.rename(gone)
            except FileNotFoundError:  # another process was faster
                continue
            shutil.rmtree(gone, ignore_errors=True)
            total -= size

    def _sweep(self) -> None:
        """Delete what killed processes left: drafts whose key nobody holds the lock of."""
        for draft in self.root.glob("draft-*-*"):
            lock = FileLock(self.root / f"{draft.name.split('-')[1]}.lock", timeout=0)
            try:
                with lock:
                    shutil.rmtree(draft, ignore_errors=True)
            except Timeout:  # it is being built
                continue

    def _entries(self) -> Iterator[tuple[float, Path, int]]:
        for meta in self.root.glob("??/*/meta.json"):
            try:
                used = meta.stat().st_mtime
                size = _size(meta.parent)
            except FileNotFoundError:  # evicted by another process meanwhile
                continue
            yield used, meta.parent, size

    def _place(self, key: str) -> Path:
        return self.root / key[:2] / key


def _read(folder: Path) -> Entry:
    """The arrays of an entry, mapped: they stay readable when the entry is evicted."""
    meta = json.loads((folder / "meta.json").read_text())
    arrays = tuple(np.load(folder / f"{index}.npy", mmap_mode="r") for index in range(meta["arrays"]))
    return Entry(arrays, meta["notes"])


def _size(folder: Path) -> int:
    """Bytes of a folder's files; 0 where it went away meanwhile."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0
