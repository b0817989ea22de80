"""Which items of a split are worth showing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def telling(
    shares: NDArray[np.float64], actual: NDArray[np.int64], predicted: NDArray[np.int64], *, most: int
) -> Sequence[int]:
    """Rows worth showing: confident mistakes, and where there are few, the least sure right answers."""
    sure = shares.max(axis=1)
    wrong = np.flatnonzero(predicted != actual)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    right = np.flatnonzero(predicted == actual)
    right = right[np.argsort(sure[right], kind="stable")]
    room = max(0, min(6, most - len(wrong)))
    return [*wrong[:most].tolist(), *right[:room].tolist()]


def surest(
    shares: NDArray[np.float64], actual: NDArray[np.int64], predicted: NDArray[np.int64], *, most: int
) -> Sequence[int]:
    """Rows of right answers, the surest first."""
    right = np.flatnonzero(predicted == actual)
    found: list[int] = right[np.argsort(-shares.max(axis=1)[right], kind="stable")][:most].tolist()
    return found
