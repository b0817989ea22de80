"""A table of image paths and labels: CSV, TSV or Parquet; and what tables of other items share with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tlsearch.contracts.dataset import SPLITS, DatasetOptions, DatasetSource, Samples
from tlsearch.errors import DataError, did_you_mean
from tlsearch.files import refuse_special
from tlsearch.names import printable, split_of
from tlsearch.walk import refusal

DataPath = Annotated[Path, Field(strict=False)]


_LABEL = "label:"
_NO_SPLIT = "Set split_column: null if the column means something else."


class RowOptions(DatasetOptions):
    """Where a table is and what its columns are called.

    Attributes:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        label_column: class names, or the numbers that `task: regression` learns; a list where every item has
            several numbers.
        split_column: ``train``, ``val`` or ``test``; the column ``split`` is used where there is one.
        group_column: items with the same group never stand in two splits; an empty one is no group.
    """

    path: DataPath
    label_column: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = "label"
    split_column: str = "split"
    group_column: str | None = None


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
        root = (options.root or options.path.parent).resolve()
        rows = read_rows(options, "image", options.image_column)
        return samples_of(
            rows,
            "image",
            options.path,
            refused=lambda image: refusal(root / image, root) if image else "no image path",
            item=lambda image: root / image,
            named=lambda image, row: printable(image),
            hint=f"Image paths are relative to {root}; set root to change that.",
        )


Rows = dict[str, list[str]]
"""Cells as texts, by what they are: the items' kind; ``label:`` and its name for each column of labels;
``split`` and ``group`` where there are."""


def read_rows(options: RowOptions, kind: str, column: str) -> Rows:
    """The columns of a table that matter.

    Args:
        options: of the table.
        kind: what the items are, such as ``image``; the option ``image_column`` names their column.
        column: theirs.

    Raises:
        DataError: no such table or column.
    """
    frame = read_table(options.path)
    known = [str(name) for name in frame.columns]
    given = options.label_column
    columns = {kind: column}
    columns |= {f"{_LABEL}{name}": name for name in ([given] if isinstance(given, str) else given)}
    if options.split_column in known or "split_column" in options.model_fields_set:
        columns["split"] = options.split_column
    if options.group_column is not None:
        columns["group"] = options.group_column
    for option, name in columns.items():
        if name not in known:
            raise DataError(
                f'{options.path} has no column "{name}"; it has: {", ".join(known)}',
                hint=f"Set {option.partition(':')[0]}_column. {did_you_mean(name, known)}".strip(),
            )
    return {key: texts(frame[name]) for key, name in columns.items()}


def samples_of(
    rows: Rows,
    kind: str,
    table: Path,
    *,
    refused: Callable[[str], str | None],
    item: Callable[[str], Any],
    named: Callable[[str, int], str],
    hint: str | None = None,
) -> Samples:
    """A table's rows as samples; those without a label, or that are refused, are broken.

    Args:
        rows: as `read_rows` gives them.
        kind: what the items are.
        table: where they came from.
        refused: why an item's cell can't be used, or None.
        item: what becomes of a cell.
        named: how to call it, by its cell and its row (from 1).
        hint: what to do where too few can be used.

    Raises:
        DataError: an unknown split, or fewer than two classes.
    """
    splits = [_split(value, row, table) for row, value in enumerate(rows.get("split", []), start=1)]
    kept: list[int] = []
    broken: list[str] = []
    columns = [key for key in rows if key.startswith(_LABEL)]
    labels = list(zip(*(rows[column] for column in columns), strict=True))
    for row, (cell, label) in enumerate(zip(rows[kind], labels, strict=True)):
        reason = refused(cell) if all(label) or not cell else "no label"
        if reason is None:
            kept.append(row)
        else:
            place, name = f"row {row + 1}", named(cell, row + 1)
            broken.append(f"{place}{f' ({name})' if cell and name != place else ''}: {reason}")
    classes = sorted({labels[row] for row in kept})
    if len(classes) < 2:
        first = f" (the first of {len(broken)} that can't be used: {broken[0]})" if broken else ""
        raise DataError(
            f"{table} has usable rows of {len(classes)} classes{first}; at least 2 are needed", hint=hint
        )
    if splits and "train" not in {splits[row] for row in kept}:
        raise DataError(f'{table} has no usable row with split "train"')
    index = {label: number for number, label in enumerate(classes)}
    one = len(columns) == 1
    return Samples(
        items=[item(rows[kind][row]) for row in kept],
        targets=[index[labels[row]] if one else labels[row] for row in kept],
        spec=[name for (name,) in classes] if one else None,
        columns=[column.removeprefix(_LABEL) for column in columns],
        names=[named(rows[kind][row], row + 1) for row in kept],
        splits=[splits[row] for row in kept] if splits else None,
        groups=[rows["group"][row] for row in kept] if "group" in rows else None,
        broken=tuple(broken),
    )


def _split(value: str, row: int, table: Path) -> str:
    split = split_of(value)
    if split is None:
        raise DataError(
            f'{table}, row {row}: split is "{value}"; right are train, val and test',
            hint=f"{did_you_mean(value.lower(), SPLITS)} {_NO_SPLIT}".strip(),
        )
    return split


def texts(column: Any) -> list[str]:
    """The cells of a column as texts without blanks around them; missing ones are empty."""
    # Parquet has missing values, which CSV doesn't: there they are empty strings.
    pairs = zip(column, column.isna(), strict=True)
    return ["" if missing else str(value).strip() for value, missing in pairs]


def read_table(path: Path) -> Any:
    """A table as a pandas frame whose cells are as they are written.

    Raises:
        DataError: it can't be read, or is of another kind.
    """
    import pandas

    suffix = path.suffix.lower()
    try:
        refuse_special(path)
        if suffix == ".parquet":
            return pandas.read_parquet(path, dtype_backend="pyarrow").astype(object)
        if suffix in (".csv", ".tsv"):
            # na_filter off: a class may be called "NA" or "None", and 007 isn't 7.
            with warnings.catch_warnings():
                # Cells beyond the header's would only be warned of and dropped, the label among them.
                warnings.simplefilter("error", pandas.errors.ParserWarning)
                return pandas.read_csv(
                    path,
                    sep="\t" if suffix == ".tsv" else ",",
                    dtype=str,
                    na_filter=False,
                    encoding="utf-8-sig",
                    index_col=False,
                )
    except OSError as error:
        raise DataError(f"table {path} can't be read ({error.strerror or error})") from error
    except pandas.errors.ParserWarning as error:
        raise DataError(
            f"table {path} has rows of more cells than its header",
            hint="Quote values that hold the separator.",
        ) from error
    except Exception as error:  # pandas and pyarrow raise almost anything on damaged files
        raise DataError(f"table {path} can't be parsed: {error or type(error).__name__}") from error
    raise DataError(f"table {path} must end in .csv, .tsv or .parquet")
