"""Sets of labels as targets: from cells of 0 and 1, or lists of names, to an array of 0 and 1, and back.

Raw targets are lists or sets of names; rows of 0 and 1, as tuples of cells or of numbers; or single names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.contracts import TargetSpec
from tlsearch.counts import plural
from tlsearch.errors import DataError, did_you_mean
from tlsearch.tables import APART, HELD

Array = NDArray[np.float32]


def named(target: Any) -> bool:
    """Whether a raw target holds names, not a cell of 0 or 1 for each label."""
    if isinstance(target, str):
        return True
    return isinstance(target, list | set | frozenset) and all(isinstance(one, str) for one in target)


def cells_apart(targets: Sequence[Any] | NDArray[Any]) -> Sequence[Any] | NDArray[Any]:
    """The same targets; texts as rows of one cell where most of them are 0 or 1, which are no names then."""
    texts = [target for target in targets if isinstance(target, str)]
    if not texts or 2 * sum(held(text) is not None for text in texts) <= len(texts):
        return targets
    return [(target,) if isinstance(target, str) else target for target in targets]


def names_of(target: Any) -> list[str]:
    """The names in a raw target that holds names."""
    return [target] if isinstance(target, str) else sorted(target)


def problems(targets: Sequence[Any] | NDArray[Any]) -> dict[int, str]:
    """Positions of rows with a cell that is neither 0 nor 1, and why."""
    found: dict[int, str] = {}
    rows = cells_apart(targets)
    zeros = any(str(cell).strip() in ("0", "0.0") for row in rows if not named(row) for cell in row)
    for position, target in enumerate(rows):
        cells = () if named(target) else target
        wrong = [cell for cell in cells if held(cell) is None or (zeros and str(cell).strip() == "-1")]
        if wrong:
            text = str(wrong[0]).strip()[:40]
            found[position] = f'a label is "{text}", neither 0 nor 1' if text else "a label is missing"
    return found


def held(cell: Any) -> bool | None:
    """Whether a cell says that an item has the label; None where it says neither."""
    return HELD.get(str(cell).strip().lower())


def as_rows(targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> Array:
    """Raw targets as 0 and 1 (N, K).

    Raises:
        DataError: a name that isn't among the spec's, more or fewer cells, or a cell that is neither.
    """
    targets = cells_apart(targets)
    rows = np.zeros((len(targets), len(spec.names)), dtype=np.float32)
    if wrong := problems(targets):
        position, why = next(iter(wrong.items()))
        raise DataError(f"Item {position + 1}: {why}.")
    index = {name: at for at, name in enumerate(spec.names)}
    for row, target in zip(rows, targets, strict=True):
        if named(target):
            row[[_known(name, index) for name in names_of(target)]] = 1
            continue
        if len(target) != len(spec.names):
            raise DataError(
                f"An item has {plural(len(target), 'label')}, and {len(spec.names)} are learned: "
                f"{', '.join(spec.names)}.",
                hint="Name as many label columns, in this order.",
            )
        row[:] = [bool(held(cell)) for cell in target]
    return rows


def _known(name: str, index: dict[str, int]) -> int:
    if name not in index:
        hint = f"It knows: {', '.join(list(index)[:20])}"
        for mark in ";|,":
            if mark in name and all(part.strip() in index for part in name.split(mark)):
                hint = f'Is it several labels? Set label_separator (`--set "label_separator={mark}"`).'
        raise DataError(
            f"The model doesn't know the label {name!r}. {did_you_mean(name, index)}".rstrip(), hint=hint
        )
    return index[name]


def described(targets: Sequence[Any] | NDArray[Any], columns: Sequence[str]) -> TargetSpec:
    """The labels: of names those that occur, sorted; of rows the columns. ``share`` of items that have each.

    Raises:
        DataError: rows and names are mixed, a cell of names looks like several, or all items have a label,
            or none.
    """
    targets = cells_apart(targets)
    kinds = {named(target) for target in targets}
    if len(kinds) > 1:
        raise DataError("Some targets are names of labels, others rows of 0 and 1.")
    if kinds == {True}:
        _refuse_unseparated(targets)
        labels = tuple(sorted({name for target in targets for name in names_of(target)}))
    else:
        width = len(targets[0]) if len(targets) else 0
        numbered = tuple(f"label {number}" for number in range(1, width + 1))
        labels = tuple(columns) if len(columns) == width else numbered
    share = as_rows(targets, TargetSpec(labels)).mean(axis=0, dtype=np.float64)
    for name, part in zip(labels, share.tolist(), strict=True):
        if part in (0.0, 1.0):
            who = "Every one" if part else "None"
            raise DataError(
                f'{who} of {len(targets)} items has the label "{name}": there is nothing to learn of it.',
                hint="Leave its column out, or add items of the other kind.",
            )
    if not labels:
        raise DataError("No item has a label: there is nothing to learn.")
    return TargetSpec(labels, {"share": share.tolist()})


def _refuse_unseparated(targets: Sequence[Any] | NDArray[Any]) -> None:
    cells = [target for target in targets if isinstance(target, str)]
    several = next((cell for cell in cells for mark in APART if mark in cell), None)
    if several is not None:
        mark = next(mark for mark in APART if mark in several)
        raise DataError(
            f'"{several[:60]}" seems to be several labels in one cell.',
            hint=f'Say so in the data section: label_separator: "{mark}".',
        )
