"""Boxes: where on a picture objects of a class are, as shares of its width and height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.contracts.target import TargetSpec
from tlsearch.errors import DataError

NOTHING = -1.0
"""What stands for the class in rows that fill an item's boxes up."""
MOST = 1000
"""Boxes of one picture, at most: all items are as long as the longest."""
DIGITS = 6

Rows = NDArray[np.float32]
"""(N, 5): class index, left, top, right, bottom."""


def rows(objects: Sequence[tuple[int, float, float, float, float]]) -> Rows:
    """Rows (N, 5) of class index, left, top, right and bottom; also of none."""
    return np.array(objects, np.float32).reshape(-1, 5)


def stacked(items: Sequence[Rows], *, most: int = 0) -> NDArray[np.float32]:
    """Boxes of all items (N, M, 5), filled up with `NOTHING`; M is that of the longest, or ``most``."""
    length = max([most, 1, *(len(own) for own in items)])
    stack = np.zeros((len(items), length, 5), np.float32)
    stack[..., 0] = NOTHING
    for row, own in zip(stack, items, strict=True):
        row[: len(own)] = own
    return stack


def described(names: Sequence[str], items: Sequence[Rows]) -> TargetSpec:
    """What boxes of all items are.

    ``facts`` are how many the fullest item has (``most``), and of the square root of a box's area the median
    (``usual``) and how small it is often (``small``): the median of the class of the smallest boxes, or what
    a tenth of all fall below.

    Raises:
        DataError: there is no box at all, or one item has too many.
    """
    every = np.concatenate([np.zeros((0, 5), np.float32), *items])
    if not len(every):
        raise DataError("no picture has a box: there is nothing to find", hint="Are the annotations empty?")
    most = max(len(own) for own in items)
    if most > MOST:
        raise DataError(f"a picture has {most} boxes; up to {MOST} are possible")
    sides = np.sqrt((every[:, 3] - every[:, 1]) * (every[:, 4] - every[:, 2]))
    by_class = [float(np.median(sides[every[:, 0] == kind])) for kind in np.unique(every[:, 0])]
    return TargetSpec(
        tuple(names),
        {
            "most": most,
            "usual": round(float(np.median(sides)), 4),
            "small": round(min(float(np.quantile(sides, 0.1)), *by_class), 4),
        },
    )


def plain(target: NDArray[Any], spec: TargetSpec) -> list[dict[str, Any]]:
    """An item's rows as JSON holds them: ``label`` and ``box``, shares of the picture's sides."""
    kept = np.asarray(target)[np.asarray(target)[:, 0] >= 0]
    return [
        {"label": spec.names[int(row[0])], "box": [round(float(share), DIGITS) for share in row[1:5]]}
        for row in kept
    ]


def coded(target: object, names: Sequence[str]) -> Rows:
    """What `plain` gave as rows.

    Raises:
        DataError: it is none such, or of a class that isn't known.
    """
    if not is_plain(target):
        raise DataError("a target is no list of boxes, each with a label and a box")
    found: list[tuple[int, float, float, float, float]] = []
    for one in target:  # type: ignore[attr-defined]  # looked at above
        label = str(one["label"])
        if label not in names:
            raise DataError(
                f'a box is of class "{label}", which is not known', hint=f"Classes: {', '.join(names)}."
            )
        left, top, right, bottom = map(float, one["box"])
        shares = [left, top, right, bottom]
        if not (np.isfinite(shares).all() and 0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise DataError(f"a box {shares} is none of shares of a picture: left, top, right, bottom")
        found.append((list(names).index(label), left, top, right, bottom))
    return rows(found)


def is_plain(target: object) -> bool:
    """Whether a target is a list of boxes, as `plain` gives it."""
    return isinstance(target, list | tuple) and all(
        isinstance(one, Mapping) and set(one) == {"label", "box"} and len(one["box"]) == 4 for one in target
    )
