"""Options that several commands share, and what they mean where they are left out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from tlsearch.errors import InputError
from tlsearch.urls import public

DEFAULT_DATABASE = "sqlite:///tlsearch.db"

Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="Study database; else TLSEARCH_DB, else sqlite:///tlsearch.db in the working directory.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Artifacts = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Folder for weights and models, or a URL such as s3://BUCKET/PREFIX; else TLSEARCH_ARTIFACTS, "
        "else tlsearch-artifacts beside the SQLite file or in the working directory.",
        show_default=False,
    ),
]

Preset = Annotated[
    str | None,
    typer.Option(
        metavar="quick|good|best",
        help="Effort of a new study: quick takes two minutes, good (the default) half an hour at most, best "
        "four hours at most. It is written into the study file as plain keys.",
        show_default=False,
    ),
]
Name = Annotated[str | None, typer.Option(help="Name of a new study; that of the data by default.")]
ImageColumn = Annotated[
    str | None,
    typer.Option(help="Column of a table with the images; found by its name by default.", show_default=False),
]
LabelColumn = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of a table with the labels; found by its name by default. Repeated: several numbers, or "
        "0 and 1.",
        show_default=False,
    ),
]


def data_path(text: str) -> Path:
    """What is given as DATA, as a path.

    Raises:
        InputError: it is empty, which would be the current folder, or a URL.
    """
    if not text:
        raise InputError("DATA is empty.", hint="Name a folder or a file; . is the folder that you are in.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise InputError(
            f"{public(text)} is a URL, and DATA is a folder or a file of this machine.",
            hint="Download it first; or name an object store in a study file (data.path: s3://BUCKET/PREFIX).",
        )
    return Path(text)


Target = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", parser=data_path, help="Folder of class folders, a table, or a study file."
    ),
]
Labelled = Annotated[
    Path, typer.Argument(metavar="DATA", parser=data_path, help="Folder of class folders, or a table.")
]


def columns(
    image: str | None, label: list[str] | None, **others: str | None
) -> dict[str, str | list[str] | None]:
    """Column options of a table, as its data section has them, without those that were left out."""
    labels = label[0] if label and len(label) == 1 else label
    named = {"image_column": image, "label_column": labels, **others}
    return {option: column or None for option, column in named.items() if column is not None}


def database(given: str | None) -> str:
    """The database URL that a command is to use."""
    return given or os.environ.get("TLSEARCH_DB") or DEFAULT_DATABASE


def artifacts(given: str | None, url: str) -> str:
    """The place for weights and models."""
    if given is not None:
        return given
    if os.environ.get("TLSEARCH_ARTIFACTS"):
        return os.environ["TLSEARCH_ARTIFACTS"]
    file = url.removeprefix("sqlite:///")
    beside = Path(file).parent if file != url and file else Path()
    return str(beside / "tlsearch-artifacts")
