"""A table of image paths and labels: CSV, TSV or Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.datasets.folder import printable, refusal
from tlsearch.errors import DataError, did_you_mean

DataPath = Annotated[Path, Field(strict=False)]

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


class TableOptions(DatasetOptions):
    """Where the table is and what its columns are called.

    Attributes:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        root: folder that image paths are relative to and must not leave; the table's folder by default.
        image_column: paths.
        label_column: class names; numbers are taken as names.
        split_column: ``train``, ``val`` or ``test``; the column ``split`` is used where there is one.
        group_column: items with the same group never stand in two splits; an empty one is no group.
    """

    path: DataPath
    root: DataPath | None = None
    image_column: str = "image"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str | None = None


class Table(DatasetSource[TableOptions]):
    """Rows of a table, in its order."""

    options = TableOptions

    def load(self, options: TableOptions) -> Samples:
        """List the rows; those without a label or a file inside the root are broken.

        Raises:
            DataError: no such table or column, an unknown split, or fewer than two classes.
        """
        frame = _read(options.path)
        known = [str(column) for column in frame.columns]
        columns = {"image": options.image_column, "label": options.label_column}
        if options.split_column in known or "split_column" in options.model_fields_set:
            columns["split"] = options.split_column
        if options.group_column is not None:
            columns["group"] = options.group_column
        for option, column in columns.items():
            if column not in known:
                raise DataError(
                    f'{options.path} has no column "{column}"; it has: {", ".join(known)}',
                    hint=f"Set {option}_column. {did_you_mean(column, known)}".strip(),
                )
        root = (options.root or options.path.parent).resolve()
        values = {key: _texts(frame[column]) for key, column in columns.items()}
        return _samples(values, root, options.path)


def _samples(values: dict[str, list[str]], root: Path, table: Path) -> Samples:
    splits = [_split(value, row, table) for row, value in enumerate(values.get("split", []), start=1)]
    kept: list[int] = []
    broken: list[str] = []
    for row, (image, label) in enumerate(zip(values["image"], values["label"], strict=True)):
        if not image:
            reason: str | None = "no image path"
        elif not label:
            reason = "no label"
        else:
            reason = refusal(root / image, root)
        if reason is None:
            kept.append(row)
        else:
            broken.append(f"row {row + 1}{f' ({printable(image)})' if image else ''}: {reason}")
    classes = sorted({values["label"][row] for row in kept})
    if len(classes) < 2:
        first = f" (the first of {len(broken)} that can't be used: {broken[0]})" if broken else ""
        raise DataError(
            f"{table} has usable rows of {len(classes)} classes{first}; at least 2 are needed",
            hint=f"Image paths are relative to {root}; set root to change that.",
        )
    if splits and "train" not in {splits[row] for row in kept}:
        raise DataError(f'{table} has no usable row with split "train"')
    index = {name: number for number, name in enumerate(classes)}
    return Samples(
        items=[root / values["image"][row] for row in kept],
        labels=[index[values["label"][row]] for row in kept],
        classes=tuple(classes),
        names=[printable(values["image"][row]) for row in kept],
        splits=[splits[row] for row in kept] if splits else None,
        groups=[values["group"][row] for row in kept] if "group" in values else None,
        broken=tuple(broken),
    )


def _split(value: str, row: int, table: Path) -> str:
    split = _SPLITS.get(value.lower())
    if split is None:
        raise DataError(
            f'{table}, row {row}: split is "{value}"; right are train, val and test',
            hint=did_you_mean(value.lower(), _SPLITS) or None,
        )
    return split


def _texts(column: Any) -> list[str]:
    # Parquet has missing values, which CSV doesn't: there they are empty strings.
    pairs = zip(column, column.isna(), strict=True)
    return ["" if missing else str(value).strip() for value, missing in pairs]


def _read(path: Path) -> Any:
    import pandas

    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pandas.read_parquet(path, dtype_backend="pyarrow").astype(object)
        if suffix in (".csv", ".tsv"):
            # na_filter off: a class may be called "NA" or "None", and 007 isn't 7.
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
    except ValueError as error:  # pandas' and pyarrow's parser errors and Unicode errors are all of this kind
        raise DataError(f"table {path} can't be parsed: {error}") from error
    raise DataError(f"table {path} must end in .csv, .tsv or .parquet")
