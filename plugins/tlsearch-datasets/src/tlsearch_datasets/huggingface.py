"""Data sets of Hugging Face's ``datasets``: saved on this machine, or on the hub.

See https://huggingface.co/docs/datasets for `load_from_disk` and `load_dataset`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from tlsearch.contracts import DatasetOptions, DatasetSource, Samples
from tlsearch.errors import DataError, did_you_mean

_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_ON_DISK = ("dataset_dict.json", "state.json")
"""Files by which `save_to_disk` marks a folder."""


class HuggingFaceOptions(DatasetOptions):
    """Which data set, and what its columns are called.

    Attributes:
        path: folder that ``save_to_disk`` wrote, or one of Parquet files or of images.
        name: on the hub, in place of a path; fetched, or taken from its cache.
        config: a configuration of that name.
        revision: a commit or tag; pin one, or the data may change under the study.
        image_column: pictures.
        label_column: class names, numbers, or a ``ClassLabel``.
    """

    path: Annotated[Path, Field(strict=False)] | None = None
    name: str | None = None
    config: str | None = None
    revision: str | None = None
    image_column: str = "image"
    label_column: str = "label"

    @model_validator(mode="after")
    def _one_place(self) -> HuggingFaceOptions:
        if (self.path is None) == (self.name is None):
            raise ValueError("give a path, or a name on the hub")
        return self


class Pictures(Sequence[bytes | Path]):
    """The pictures of a split, as they are stored; read when they are asked for."""

    def __init__(self, rows: Any, column: str) -> None:
        self.rows = rows
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        stored = self.rows[int(index)][self.column]
        return stored["bytes"] if stored["bytes"] is not None else Path(stored["path"])


class Joined(Sequence[Any]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts = parts
        self.places = [(part, index) for part, one in enumerate(parts) for index in range(len(one))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        part, place = self.places[int(index)]
        return self.parts[part][place]


class HuggingFace(DatasetSource[HuggingFaceOptions]):
    """The rows of a data set; its ``train``, ``validation`` and ``test`` are splits where it has a train."""

    options = HuggingFaceOptions

    def load(self, options: HuggingFaceOptions) -> Samples:
        """List the rows.

        Raises:
            DataError: no such data set or column, columns of another kind, or fewer than two classes.
        """
        parts = _read(options)
        named = {_SPLITS[name]: rows for name, rows in parts.items() if name in _SPLITS}
        if len(parts) > 1 and "train" not in named:
            raise DataError(f"{_called(options)} has the splits {', '.join(parts)}, and no train")
        splits = named if len(named) > 1 else {"": next(iter(named.values() or parts.values()))}
        pictures, labels, where = [], [], []
        for split, rows in splits.items():
            rows = _checked(rows, options)
            pictures.append(Pictures(rows, options.image_column))
            labels += _labels(rows, options.label_column)
            where += [split] * len(rows)
        classes = sorted({name for name in labels if name})
        if len(classes) < 2:
            raise DataError(f"{_called(options)} has too few classes, {len(classes)}; at least 2 are needed")
        index = {name: number for number, name in enumerate(classes)}
        kept = [number for number, name in enumerate(labels) if name]
        joined = Joined(pictures)
        joined.places = [joined.places[number] for number in kept]
        names = [f"{where[number] or 'row'} {joined.places[i][1]}" for i, number in enumerate(kept)]
        return Samples(
            items=joined,
            labels=[index[labels[number]] for number in kept],
            classes=tuple(classes),
            names=names,
            splits=None if "" in splits else [where[number] for number in kept],
            broken=tuple(f"row {number}: no label" for number, name in enumerate(labels) if not name),
        )


def _read(options: HuggingFaceOptions) -> Mapping[str, Any]:
    """Split names and rows."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if options.name is not None:
            found = datasets.load_dataset(options.name, options.config, revision=options.revision)
        elif options.path is not None and any((options.path / mark).is_file() for mark in _ON_DISK):
            found = datasets.load_from_disk(str(options.path))
        elif options.path is not None and options.path.is_dir():
            found = datasets.load_dataset(str(options.path))
        else:
            raise DataError(f"there is no folder {options.path}")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{_called(options)} can't be loaded: {reason}",
            hint="Offline, save it elsewhere with `save_to_disk` and give its path."
            if options.name is not None
            else "Right is a folder that `save_to_disk` wrote, or one of Parquet files or images.",
        ) from None
    return {"": found} if isinstance(found, datasets.Dataset) else dict(found)


def _checked(rows: Any, options: HuggingFaceOptions) -> Any:
    """Rows whose pictures come as they are stored, not decoded."""
    import datasets

    for option, column in (
        ("image_column", options.image_column),
        ("label_column", options.label_column),
    ):
        if column not in rows.column_names:
            known = ", ".join(rows.column_names)
            raise DataError(
                f'{_called(options)} has no column "{column}"; it has: {known}',
                hint=f"Set {option}. {did_you_mean(column, rows.column_names)}".strip(),
            )
    image, label = rows.features[options.image_column], rows.features[options.label_column]
    if not isinstance(image, datasets.Image):
        raise DataError(
            f'the column "{options.image_column}" of {_called(options)} holds {image}, not images'
        )
    if not isinstance(label, datasets.ClassLabel | datasets.Value):
        raise DataError(
            f'the column "{options.label_column}" of {_called(options)} holds {label}, not labels'
        )
    return rows.cast_column(options.image_column, datasets.Image(decode=False))


def _labels(rows: Any, column: str) -> list[str]:
    """Class names of all rows, without touching the pictures; "" where there is none."""
    kind = rows.features[column]
    values = rows.select_columns([column])[column]
    names = getattr(kind, "names", None)
    if names is not None:
        return ["" if value is None or value < 0 else str(names[value]) for value in values]
    return ["" if value is None else str(value) for value in values]


def _called(options: HuggingFaceOptions) -> str:
    return str(options.path or options.name)
