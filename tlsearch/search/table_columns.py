"""Which columns of a table hold images and labels, where their names don't tell: by what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlsearch.tables import TableFile

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
