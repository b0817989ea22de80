"""Where recorded files lie now: a project's folder may have been moved, copied or mounted elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tlsearch.artifacts import is_remote

LEAST_TAIL = 2
"""Fewer names at a path's end, such as ``model``, may be those of another study's file."""


def home(connection: Connection) -> Path | None:
    """The folder of a SQLite file; None for a server, whose clients share absolute paths."""
    folder: Path | None = connection.get_execution_options().get("tlsearch_home")
    return folder


def present(uri: str, folder: Path | None) -> str:
    """The place of a file or folder that was recorded by its absolute path.

    What lies below the database's folder moves with it: it is found there by the longest end of the
    recorded path. A copy of a project so reads its own files, not those of the original. What isn't there
    is where it was recorded, as are URLs.

    Args:
        uri: as recorded.
        folder: the database file's, without symbolic links; None for a server.
    """
    found = _moved(uri, folder)
    return uri if found is None else str(found[1])


def with_moved_paths(value: Any, uri: str | None, folder: Path | None) -> Any:
    """Plain data, such as a study's, with its paths below the database's former folder below its present one.

    What was its folder is told by one of its files that moved with it. A path stays where nothing is at the
    new place: the data of a project may have been left out of its copy.

    Args:
        value: with absolute paths, as recorded.
        uri: of a file or folder that was recorded by the same database; None for none.
        folder: as for `present`.
    """
    found = _moved(uri, folder) if uri is not None else None
    return value if found is None or folder is None else _rebased(value, found[0], folder)


def _moved(uri: str, folder: Path | None) -> tuple[Path, Path] | None:
    """What was the database's folder, and a file's place now; None where the file wasn't moved with it."""
    if folder is None or is_remote(uri):
        return None
    recorded = Path(uri)
    if recorded.is_relative_to(folder) and recorded.exists():
        return None
    names = recorded.parts[1:]
    for start in range(len(names) - LEAST_TAIL + 1):
        moved = folder.joinpath(*names[start:])
        if moved.exists():
            return Path(*recorded.parts[: start + 1]), moved
    return None


def _rebased(value: Any, before: Path, now: Path) -> Any:
    if isinstance(value, dict):
        return {key: _rebased(inner, before, now) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rebased(inner, before, now) for inner in value]
    if isinstance(value, str) and os.path.isabs(value):
        path = Path(os.path.normpath(value))  # a study file may say ../pictures
        if path.is_relative_to(before) and os.path.lexists(moved := now / path.relative_to(before)):
            return str(moved)
    return value
