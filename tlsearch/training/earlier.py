"""What an earlier study computed of the items that this one has, too: found by content, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlsearch.records import StudyItems

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extended:
    """The study that another one extends, and its data; ``names`` are of its targets, such as classes."""

    study: str
    fingerprint: str
    names: tuple[str, ...]
    items: StudyItems


@dataclass(frozen=True, slots=True)
class Earlier:
    """Where the encoded items of the extended study are stored, and which of them these are.

    Attributes:
        key: of the stored items.
        kept: their rows, ascending, that activations were stored of: none of the test split.
        rows: (N,) the row of each item of now, -1 for a new one.
    """

    key: str
    kept: Rows
    rows: Rows

    def positions(self, index: Rows) -> Rows:
        """Where items (n,) of now stand among those that activations were stored of; -1 for others."""
        wanted = self.rows[index]
        at = np.searchsorted(self.kept, wanted)
        there = at < len(self.kept)
        there[there] = self.kept[at[there]] == wanted[there]
        return np.where(there, at, -1)


def earlier(extended: Extended, hashes: Sequence[str], *, key: str) -> Earlier:
    """What was computed of the extended study's items, for items of these contents.

    Args:
        extended: the study.
        hashes: of the contents of now.
        key: of the stored items of that study.
    """
    row = {content: at for at, content in reversed(list(enumerate(extended.items.hashes)))}
    return Earlier(
        key=key,
        kept=np.array(extended.items.of("train", "stop", "val"), dtype=np.int64),
        rows=np.array([row.get(content, -1) for content in hashes], dtype=np.int64),
    )
