"""Files that are there whole or not at all, and the checksums that prove it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import platformdirs

from tlsearch.errors import InputError
from tlsearch.records import Artifact


def cache_folder() -> Path:
    """What can be made again lies here, local to the machine: TLSEARCH_CACHE, or the user's cache folder.

    Raises:
        InputError: it isn't there and can't be made, or nothing can be written in it.
    """
    given = os.environ.get("TLSEARCH_CACHE")
    folder = Path(given) if given else Path(platformdirs.user_cache_dir("tlsearch"))
    try:
        if not folder.is_absolute() and not given:
            raise OSError(errno.ENOENT, "you have no home folder here")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        raise InputError(
            f"The cache folder {folder} can't be used: {getattr(error, 'strerror', None) or error}.",
            hint="Set TLSEARCH_CACHE to a folder that you may write to.",
        ) from None
    return folder


def temporary_folder() -> Path:
    """Where temporary files go: the folder that TMPDIR names (TEMP, TMP), or the system's.

    Python would go elsewhere without a word where the one that is named can't be used, and Ray wouldn't.

    Raises:
        InputError: nothing can be written in it.
    """
    named = next((name for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), None)
    folder = Path(os.environ[named]) if named else None
    try:
        if folder is None:
            folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        which = f"{named}={folder}" if named else str(folder or "")
        raise InputError(
            f"The folder for temporary files can't be used ({f'{which}: ' if which else ''}"
            f"{getattr(error, 'strerror', None) or error}).",
            hint="Set TMPDIR to a folder that you may write to.",
        ) from None
    return folder


def scratch(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """A folder for temporary files that goes with its context, called by its purpose.

    Raises:
        InputError: as `temporary_folder`.
    """
    return tempfile.TemporaryDirectory(prefix=f"tlsearch-{purpose}-", dir=temporary_folder())


def refuse_special(path: Path) -> None:
    """Refuse what isn't a regular file before it is opened: a FIFO would block, a device may never end.

    Raises:
        OSError: it is neither file nor folder, or isn't there.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")


def write_durably(path: Path, write: Callable[[Path], object], *, mark: bool = False) -> Artifact:
    """Let ``write`` fill a draft beside ``path``; flush it to disk, then rename it into place.

    Args:
        path: where it goes.
        write: gets the path of the draft.
        mark: put the checksum into the name, before its ending.

    Returns:
        The file with its checksum and size.

    Raises:
        OSError: the disk is full (ENOSPC) or not writable; no draft is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    try:
        _fill(draft, write)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        checksum = sha256_of(draft)
        if mark:
            path = path.with_name(marked(path.name, checksum))
        artifact = Artifact(uri=str(path), sha256=checksum, bytes=draft.stat().st_size)
        draft.replace(path)
        flush_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return artifact


def refuse_unwritable(path: Path) -> None:
    """Refuse a place for a page before work is spent on what it would hold.

    Raises:
        InputError: it is a folder, or nothing can be written where it would be.
    """
    folder = next((one for one in path.absolute().parents if os.path.lexists(one)), Path("/"))
    code = errno.EISDIR if path.is_dir() else 0 if folder.is_dir() else errno.ENOTDIR
    if not code and not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    if code:
        raise InputError(f"Can't write {path}: {os.strerror(code)}", hint="Name another with --output.")


def refuse_taken(folder: Path, *, marker: str, earlier: str, what: str, overwrite: bool) -> None:
    """Refuse a folder for a result that holds anything else, or an earlier one that is not to be replaced.

    Args:
        folder: may be missing or empty.
        marker: file by which an earlier result is known.
        earlier: what the folder isn't where that is missing, for the error.
        what: it holds where that is there.
        overwrite: whether it may be replaced.

    Raises:
        InputError: the folder is taken.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / marker).is_file():
        raise InputError(f"{folder} already exists and isn't {earlier}.", hint="Choose another place.")
    if not overwrite:
        raise InputError(f"{folder} already holds {what}.", hint="Choose another place, or add --overwrite.")


def write_page(path: Path, text: str) -> None:
    """Write what a user asked for; a folder that isn't there is made.

    Raises:
        InputError: it can't be written there.
    """
    try:
        write_durably(path, lambda draft: draft.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Can't write {path}: {error.strerror or error}") from None


def disk_is_full(error: BaseException) -> bool:
    """Whether something couldn't be written for want of room; libraries written in Rust say it in words."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in codes
    return any(f"(os error {code})" in str(error) for code in codes)


def _fill(draft: Path, write: Callable[[Path], object]) -> None:
    try:
        write(draft)
    except Exception as error:
        if disk_is_full(error) and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(draft.parent)) from error
        raise


def marked(name: str, checksum: str) -> str:
    """A file's name with its checksum in it, before the ending."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}-{checksum}{dot}{ending}"


def flush_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
