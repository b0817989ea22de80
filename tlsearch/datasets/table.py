"""A table of image paths and labels: CSV, TSV or Parquet; and what tables of other items share with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tlsearch.contracts.dataset import SPLITS, DatasetOptions, DatasetSource, Samples
from tlsearch.counts import plural
from tlsearch.datasets.table_paths import Found, folder_of
from tlsearch.dates import moments
from tlsearch.errors import DataError, did_you_mean
from tlsearch.names import printable, split_of
from tlsearch.tables import (
    decimal_points,
    flags_of,
    meant,
    naming,
    read_table,
    refuse_doubled,
    refuse_headless,
    texts,
    unlike_names,
)
from tlsearch.walk import refusal

DataPath = Annotated[Path, Field(strict=False)]


_LABEL = "label:"
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])|\\\\[^\\/]+(?=[\\/])")
"""What a path of Windows begins with: a drive, or another machine."""
_NO_SPLIT = "Set split_column: null if the column means something else."


class RowOptions(DatasetOptions):
    """Where a table is and what its columns are called.

    Attributes:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        label_column: class names, or the numbers that `task: regression` learns; a list where every item has
            several numbers, or a 0 or 1 for each label that `task: multilabel` learns.
        label_separator: between the names in a cell of the label column, such as ``;``, where it holds any
            number of them for `task: multilabel`; an empty cell is an item without labels then.
        split_column: ``train``, ``val`` or ``test``; the column ``split`` is used where there is one, and
            none with null.
        group_column: items with the same group never stand in two splits; an empty one is no group.
        time_column: dates or times; the newest rows are the test split, those before them val.
    """

    path: DataPath
    label_column: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = "label"
    label_separator: str | None = Field(default=None, min_length=1)
    split_column: str | None = "split"
    group_column: str | None = None
    time_column: str | None = None


class TableOptions(RowOptions):
    """A table of images.

    Attributes:
        root: folder that image paths are relative to and must not leave; the table's folder by default.
        image_column: paths.
    """

    root: DataPath | None = None
    image_column: str = "image"


class Table(DatasetSource[TableOptions]):
    """Rows of a table, in its order."""

    options = TableOptions

    def load(self, options: TableOptions) -> Samples:
        """List the rows; those without a label or a file inside the root are broken.

        Raises:
            DataError: no such table or column, an unknown split, or fewer than two classes.
        """
        if options.root is not None and not options.root.is_dir():
            raise DataError(
                f"data.root: there is no folder {options.root}.",
                hint="It is the folder that the table's image paths count from; by default the table's own.",
            )
        own = options.path.parent.resolve()
        rows = read_rows(options, "image", options.image_column)
        inside = None if options.root is not None else folder_of(rows.cells["image"], own)
        root = inside or (options.root or own).resolve()
        if inside is not None:
            rows = replace(
                rows, notes=(*rows.notes, f"image paths count from {inside.name}/ beside the table")
            )
        found = Found(root)
        files = {image: found.path(image) for image in rows.cells["image"] if image}
        told = [
            f"{plural(count, 'path')} in {options.path.name}: {why}" for why, count in found.counts.items()
        ]
        return samples_of(
            replace(rows, notes=(*rows.notes, *told)),
            "image",
            options.path,
            refused=lambda image: _refused(image, files[image], root) if image else "no image path",
            item=lambda image: files[image],
            named=lambda image, row: printable(image),
            hint=lambda reason: (
                f"Image paths count from {root}, and absolute ones must not leave it. `root` in the "
                "study file's data section names another, as `tlsearch run --set data.root=FOLDER` does."
                if reason.startswith(("no such file", "leads out of"))
                else None
            ),
        )


def _refused(written: str, file: Path, root: Path) -> str | None:
    """Why a path of a table can't be taken: a reason, or None where it can."""
    reason = refusal(file, root)
    if reason is not None and (drive := _DRIVE.match(written)):
        return f"{drive[0]} is of Windows and isn't here: write paths from root on"
    if reason is not None and "://" in written:
        return "a URL, not a file: download it first"
    return reason


@dataclass(frozen=True, slots=True)
class Rows:
    """The columns of a table that matter.

    Attributes:
        cells: as texts, by what they are: the items' kind; ``label:`` and its name for each column of
            labels; ``split``, ``group`` and ``time`` where there are.
        notes: sentences on how the table was understood.
        separator: between the names in a cell of the one column of labels; None where each has one.
    """

    cells: dict[str, list[str]]
    notes: tuple[str, ...] = field(default=())
    separator: str | None = None


def read_rows(options: RowOptions, kind: str, column: str) -> Rows:
    """The columns of a table that matter.

    Args:
        options: of the table.
        kind: what the items are, such as ``image``; the option ``image_column`` names their column.
        column: theirs.

    Raises:
        DataError: no such table or column.
    """
    table = read_table(options.path)
    known, notes = table.columns, list(table.notes)

    def chosen(what: str, given: Any) -> Any:
        if f"{what}_column" in options.model_fields_set or given in known:
            return given
        own = meant(what, known, options.path)
        if own is None:
            return given
        notes.append(f'understood: the column "{printable(own)}" of {options.path.name} is the {what}')
        return own

    column = chosen(kind, column)
    refuse_headless(known, column, options.path)
    given = chosen("label", options.label_column)
    if options.label_separator is not None and not isinstance(given, str):
        raise DataError(
            f"{options.path}: label_separator is for one label column, and {len(given)} are named.",
            hint="Leave one of the two keys out.",
        )
    columns = {kind: column}
    columns |= {f"{_LABEL}{name}": name for name in ([given] if isinstance(given, str) else given)}
    stated = "split_column" in options.model_fields_set
    if options.split_column is not None and (options.split_column in known or stated):
        columns["split"] = options.split_column
    if options.group_column is not None:
        columns["group"] = options.group_column
    if options.time_column is not None:
        columns["time"] = options.time_column
    for option, name in columns.items():
        if name not in known:
            option = option.partition(":")[0]
            hint = f"{naming(option)} {did_you_mean(name, known)}".strip()
            raise DataError(
                f'{options.path} has no column "{name}"; it has: {printable(", ".join(known))}', hint=hint
            )
        refuse_doubled(name, known, options.path)
    if columns[kind] in [name for option, name in columns.items() if option.startswith(_LABEL)]:
        raise DataError(
            f'{options.path}: the column "{printable(column)}" is to be {kind} and label',
            hint=naming("label"),
        )
    _refuse_contents(table.frame[column], column, options.path)
    cells = {key: texts(table.frame[name]) for key, name in columns.items()}
    for key, name in columns.items():
        if key.startswith(_LABEL) and options.label_separator is None:
            cells[key], told = decimal_points(cells[key], name, options.path)
            if seems := unlike_names(cells[key]):
                raise DataError(f'{options.path}: the cells of "{printable(name)}" look like {seems}')
            notes += [told] if told else []
    labels = {key: column for key, column in cells.items() if key.startswith(_LABEL)}
    if len(labels) > 1:
        flags, told = flags_of(labels)
        cells, notes = cells | flags, notes + ([told] if told else [])
    return Rows(cells, tuple(notes), options.label_separator)


def _refuse_contents(cells: Any, column: str, table: Path) -> None:
    """Refuse a column of Parquet that holds what items are made of, as `datasets` saves pictures.

    Raises:
        DataError: it does.
    """
    if any(isinstance(cell, dict | bytes) for cell in cells.head(1)):
        raise DataError(
            f'{table}: the column "{printable(column)}" holds items themselves, not their paths',
            hint="`source: huggingface` of tlsearch-datasets reads a folder of such files.",
        )


def samples_of(
    rows: Rows,
    kind: str,
    table: Path,
    *,
    refused: Callable[[str], str | None],
    item: Callable[[str], Any],
    named: Callable[[str, int], str],
    hint: Callable[[str], str | None] = lambda reason: None,
) -> Samples:
    """A table's rows as samples; those without a label, or that are refused, are broken.

    Args:
        rows: as `read_rows` gives them.
        kind: what the items are.
        table: where they came from.
        refused: why an item's cell can't be used, or None.
        item: what becomes of a cell.
        named: how to call it, by its cell and its row (from 1).
        hint: what to do where too few can be used because of what was refused for a reason.

    Raises:
        DataError: an unknown split, or fewer than two classes.
    """
    cells = rows.cells
    times = moments(cells["time"]) if "time" in cells else None
    splits = [_split(value, row, table) for row, value in enumerate(cells.get("split", []), start=1)]
    kept: list[int] = []
    broken: list[str] = []
    lost: dict[tuple[str, ...], str] = {}
    columns = [key for key in cells if key.startswith(_LABEL)]
    labels = list(zip(*(cells[column] for column in columns), strict=True))
    for row, (cell, label) in enumerate(zip(cells[kind], labels, strict=True)):
        reason = refused(cell) if all(label) or rows.separator or not cell else "no label"
        if reason not in (None, "no label") and cell:
            lost.setdefault(label, reason)
        if reason is None and times is not None and times[row] is None:
            reason = f'"{printable(cells["time"][row])}" is no date such as 2024-05-31'
        if reason is None:
            kept.append(row)
        else:
            place, name = f"row {row + 1}", named(cell, row + 1)
            broken.append(f"{place}{f' ({name})' if cell and name != place else ''}: {reason}")
    classes = sorted({labels[row] for row in kept})
    if len(classes) < (1 if rows.separator else 2):
        raise _too_few(rows, kind, table, classes, broken, lost, hint)
    if splits and "train" not in {splits[row] for row in kept}:
        raise DataError(f'{table} has no usable row with split "train"')
    index = {label: number for number, label in enumerate(classes)}
    one = len(columns) == 1 and not rows.separator
    targets: list[Any] = [index[labels[row]] if one else labels[row] for row in kept]
    if rows.separator:
        targets = [
            sorted({name.strip() for name in cell.split(rows.separator)} - {""}) for (cell,) in targets
        ]
    return Samples(
        items=[item(cells[kind][row]) for row in kept],
        targets=targets,
        spec=[name for (name,) in classes] if one else None,
        columns=[column.removeprefix(_LABEL) for column in columns],
        names=[named(cells[kind][row], row + 1) for row in kept],
        splits=[splits[row] for row in kept] if splits else None,
        groups=[cells["group"][row] for row in kept] if "group" in cells else None,
        times=None if times is None else [moment for row in kept if (moment := times[row]) is not None],
        broken=tuple(broken),
        notes=(*rows.notes, *_repeats(cells[kind], kind, table)),
    )


def _too_few(
    rows: Rows,
    kind: str,
    table: Path,
    classes: Sequence[tuple[str, ...]],
    broken: Sequence[str],
    lost: Mapping[tuple[str, ...], str],
    hint: Callable[[str], str | None],
) -> DataError:
    """An error for a table of too few classes, with a hint for its own cause.

    Args:
        rows: as in `samples_of`, and so are ``kind``, ``table`` and ``hint``.
        classes: labels of usable rows.
        broken: sentences on the others.
        lost: labels of rows whose items were refused, each with the first reason.
    """
    needed = 1 if rows.separator else 2
    labelled = any(any(cells) for key, cells in rows.cells.items() if key.startswith(_LABEL))
    advice = None
    if not rows.cells[kind]:
        advice = "It has a header and no rows."
    elif not labelled:
        advice = "Name the column of labels as label_column."
    elif len({*classes, *lost}) >= needed:  # there are enough with what was refused
        advice = next(filter(None, (hint(reason) for reason in lost.values())), None)
    if lost and not classes:
        return DataError(f"None of the {len(broken)} rows of {table} can be used; {broken[0]}.", hint=advice)
    first = f" (the first of {len(broken)} that can't be used: {broken[0]})" if broken else ""
    return DataError(
        f"{table} has usable rows of {plural(len(classes), 'class', 'classes')}{first}; "
        f"at least {needed} {'is' if needed == 1 else 'are'} needed",
        hint=advice,
    )


def _repeats(cells: Sequence[str], kind: str, table: Path) -> list[str]:
    given = [cell for cell in cells if cell]
    again = len(given) - len(set(given))
    return (
        [f"{again} of {plural(len(cells), 'row')} in {table.name} repeat an earlier row's {kind}"]
        if again
        else []
    )


def _split(value: str, row: int, table: Path) -> str:
    split = split_of(value)
    if split is None:
        raise DataError(
            f'{table}, row {row}: split is "{value}"; right are train, val and test',
            hint=f"{did_you_mean(value.lower(), SPLITS)} {_NO_SPLIT}".strip(),
        )
    return split
