"""Where recorded files lie now: a project's folder may have been moved, copied or mounted elsewhere."""

from __future__ import annotations

from pathlib import Path

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
    if folder is None or is_remote(uri):
        return uri
    recorded = Path(uri)
    if recorded.is_relative_to(folder) and recorded.exists():
        return uri
    names = recorded.parts[1:]
    for start in range(len(names) - LEAST_TAIL + 1):
        moved = folder.joinpath(*names[start:])
        if moved.exists():
            return str(moved)
    return uri
