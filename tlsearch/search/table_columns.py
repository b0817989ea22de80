"""Which columns of a table hold images and labels, where their names don't tell: by what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlsearch.dates import moments
from tlsearch.names import printable
from tlsearch.tables import TableFile, texts

LEAST_TIMES = 10
"""Different dates of a column from which on it is proposed to split by them."""
LOOKED_AT = 50
"""Cells of a column that are looked at."""
FILES = 0.8
"""Share of them that must be files for a column to be that of the images; some may be missing."""


def by_content(read: TableFile, table: Path, known: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Options for the columns of images and labels that no name tells, and a sentence on each.

    Args:
        read: the table.
        table: its file.
        known: options that are known by now, such as ``label_column``.
    """
    found: dict[str, str] = {}
    told = []
    if "image_column" not in known and "image" not in read.columns and (images := _of_files(read, table)):
        found["image_column"] = images
        told.append(f'The images are in column "{images}", whose cells are files (--image-column).')
    if "label_column" not in known and "label" not in read.columns:
        taken = {
            (found | dict(known)).get("image_column", "image"),
            known.get("split_column", "split"),
        }
        left = [column for column in read.columns if column not in taken]
        if len(left) == 1:
            found["label_column"] = left[0]
            told.append(f'The labels are in column "{left[0]}", the only one left (--label-column).')
    return found, told


def of_dates(read: TableFile, known: Mapping[str, Any]) -> tuple[str, str] | None:
    """The one column that holds dates throughout, and what is to be said of it; None where there is none.

    Whole numbers alone may be anything.

    Args:
        read: the table.
        known: options that are known by now.
    """
    if known.get("split_column", "split") in read.columns:
        return None
    labels = known.get("label_column", "label")
    taken = {known.get("image_column", "image"), *([labels] if isinstance(labels, str) else labels)}
    found = {}
    for column in read.columns:
        cells = texts(read.frame[column])
        if column in taken or any(cell.isdigit() or not cell for cell in cells):
            continue
        if None in moments(cells[:LOOKED_AT]):  # most columns are no dates, which is soon found
            continue
        told = [moment for moment in moments(cells) if moment is not None]
        if len(told) == len(cells) and len(set(told)) >= LEAST_TIMES:
            found[column] = (cells[told.index(min(told))], cells[told.index(max(told))])
    if len(found) != 1:
        return None
    ((column, (first, last)),) = found.items()
    return column, (
        f'The column "{printable(column)}" holds dates, from {printable(first)} to {printable(last)}: the '
        "newest items are the test split (time_column), since a model is used on later items than it learned "
        "from."
    )


def _of_files(read: TableFile, table: Path) -> str | None:
    """The one column whose cells are files, as paths that count from the table."""
    found = []
    for column in read.columns:
        cells = [str(cell) for cell in read.frame[column].head(LOOKED_AT)]
        there = sum(_is_file(table.parent, cell) for cell in cells)
        if cells and there >= FILES * len(cells):
            found.append(column)
    return found[0] if len(found) == 1 else None


def _is_file(folder: Path, cell: str) -> bool:
    try:
        return bool(cell) and (folder / cell).is_file()
    except (OSError, ValueError):  # what no file can be called
        return False
