"""Where weights, checkpoints and models lie: a folder, a directory that nodes share, or an object store.

A place is a string: a path, or a URL such as ``s3://bucket/prefix``. Files appear in it whole or not at all,
and what is read is held against the SHA-256 that was noted when it was written. All that fails is an OSError.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tlsearch.errors import InputError
from tlsearch.files import cache_folder, marked, scratch, sha256_of, write_durably
from tlsearch.records import Artifact
from tlsearch.urls import may_hold_password, public

CHUNK = 8 * 2**20
"""Bytes sent at once."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ALMOST = re.compile(r"([a-z][a-z0-9+.-]+):/?(?!/)", re.IGNORECASE)
_BY_ARROW = ("s3", "gs", "gcs")
"""Schemes that pyarrow, which is always there, speaks itself; others need fsspec's package for them."""


def normal(place: str | Path) -> str:
    """A place as it is stored and compared: an absolute path, or a URL without a slash at its end.

    Raises:
        InputError: no such kind of place is known here.
    """
    text = str(place)
    if text.lower().startswith("file://"):
        text = text[len("file://") :]
    if isinstance(place, str) and _ALMOST.match(text) and not _URL.match(text):
        raise InputError(
            f'"{place}" is neither a folder nor a URL.',
            hint=f"A store's URL has two slashes: {text.partition(':')[0]}://BUCKET/PREFIX",
        )
    if not is_remote(text):
        return str(Path(text).expanduser().resolve())
    if may_hold_password(text):
        raise InputError(
            f"The place {public(text)} may hold a password, which would be stored with every file's place.",
            hint="Leave it out; stores find it as their own tools do, such as in AWS_SECRET_ACCESS_KEY.",
        )
    bucket = text.partition("://")[2].strip("/")
    if not bucket or set(bucket) & set("?#"):
        raise InputError(f'"{place}" names no place in a store.', hint="Such as s3://BUCKET/PREFIX.")
    if text.partition("://")[0].lower() not in _BY_ARROW:
        _file_system(text)
    return text.rstrip("/")


def is_remote(place: str) -> bool:
    """Whether a place is a URL, not a path."""
    return _URL.match(place) is not None


def join(place: str | Path, *names: str) -> str:
    """A place below a place."""
    return "/".join((str(place).rstrip("/"), *names))


def put(uri: str, write: Callable[[Path], object], *, mark: bool = False) -> Artifact:
    """Let ``write`` fill a file, and make it appear at ``uri`` whole; what was there is replaced.

    Args:
        uri: of the file.
        write: gets the path of a draft.
        mark: put the checksum into the file's name, so that a reader needs nothing else to check it.

    Raises:
        OSError: the disk is full, or the store can't be reached or written to; nothing half-written stays.
    """
    if not is_remote(uri):
        return write_durably(Path(uri), write, mark=mark)
    with scratch("upload") as folder:
        draft = Path(folder) / "draft"
        write(draft)
        checksum, size = sha256_of(draft), draft.stat().st_size
        if mark:
            uri = join(uri.rpartition("/")[0], marked(uri.rpartition("/")[2], checksum))
        with _store(uri) as (system, path):
            try:
                with draft.open("rb") as content, system.open(path, "wb") as stream:
                    shutil.copyfileobj(content, stream, CHUNK)
                stored = system.info(path)["size"]
                if stored != size:
                    raise OSError(f"{uri} has {stored} bytes, and {size} were sent")
            except BaseException:
                # A stream that breaks may leave the part that was sent.
                with contextlib.suppress(Exception):
                    system.rm_file(path)
                raise
    return Artifact(uri=uri, sha256=checksum, bytes=size)


def get(uri: str, *, sha256: str) -> Path:
    """A file that is known to be what was written; one of a store is fetched into the cache once.

    Raises:
        FileNotFoundError: it isn't there.
        OSError: it isn't what was written, or can't be read.
    """
    if not is_remote(uri):
        if not Path(uri).is_file():
            raise FileNotFoundError(f"{uri} is missing")
        if sha256_of(Path(uri)) != sha256:
            raise OSError(f"{uri} isn't what was written: its SHA-256 differs")
        return Path(uri)
    kept = cache_folder() / "artifacts" / sha256[:2] / sha256
    if kept.is_file() and sha256_of(kept) == sha256:
        return kept

    def fetch(draft: Path) -> None:
        fetch_to(uri, draft)
        if sha256_of(draft) != sha256:
            raise OSError(f"{uri} isn't what was written: its SHA-256 differs")

    write_durably(kept, fetch)
    return kept


def read(uri: str, *, sha256: str) -> bytes:
    """The content of a file that is known to be what was written; nothing is kept of it.

    Raises:
        OSError: it is missing, can't be read, or isn't what was written.
    """
    if is_remote(uri):
        with _store(uri) as (system, path):
            content: bytes = system.cat_file(path)
    else:
        content = Path(uri).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise OSError(f"{uri} isn't what was written: its SHA-256 differs")
    return content


def fetch_to(uri: str, path: Path) -> None:
    """Copy a file of a store to a path, unchecked."""
    with _store(uri) as (system, source):
        system.get_file(source, str(path))


def delete(uri: str) -> None:
    """Delete a file; it may be gone already."""
    if not is_remote(uri):
        Path(uri).unlink(missing_ok=True)
        return
    with _store(uri) as (system, path), contextlib.suppress(FileNotFoundError):
        system.rm_file(path)


def listed(place: str) -> list[str]:
    """All files below a place, by their paths in it; none where there is no such place."""
    if not is_remote(place):
        folder = Path(place)
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    with _store(place) as (system, path):
        try:
            found = system.find(path)
        except FileNotFoundError:
            return []
        return sorted(name[len(path) :].lstrip("/") for name in found if name.startswith(f"{path}/"))


def described(place: str) -> dict[str, str]:
    """All files at or below a place of a store, by their paths in it, with what tells versions apart.

    A place that is a file itself has the one path "".

    Raises:
        OSError: the store can't be reached.
    """
    with _store(place) as (system, path):
        try:
            found = system.find(path, detail=True)
        except FileNotFoundError:
            return {}
        return {
            name[len(path) :].lstrip("/"): f"{facts.get('size')} {facts.get('ETag') or facts.get('mtime')}"
            for name, facts in found.items()
            if name == path or name.startswith(f"{path}/")
        }


def delete_all(place: str) -> None:
    """Delete a place with all files below it."""
    if not is_remote(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    with _store(place) as (system, path), contextlib.suppress(FileNotFoundError):
        system.rm(path, recursive=True)


def check(place: str) -> None:
    """Find out whether a place can be written to.

    Raises:
        InputError: it can't; nothing was left there.
    """
    if not is_remote(place):
        existing = next(parent for parent in (Path(place), *Path(place).parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise InputError(f"{existing} can't be written to.", hint="Give another folder: --artifacts")
        return
    probe = join(place, f".probe-{uuid.uuid4().hex}")
    try:
        put(probe, lambda draft: draft.write_text("tlsearch"))
        delete(probe)
    except OSError as error:
        raise InputError(
            f"{place} can't be written to: {error}",
            hint="Stores are reached as their own tools do it: for s3://, AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, or ~/.aws.",
        ) from None


@contextlib.contextmanager
def _store(uri: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path in it; whatever it raises becomes an OSError."""
    try:
        yield _file_system(uri), uri.partition("://")[2]
    except OSError:
        raise
    except Exception as error:  # each store's package has errors of its own
        raise OSError(f"{uri}: {type(error).__name__}: {error}") from error


def _file_system(uri: str) -> Any:
    scheme, _, rest = uri.partition("://")
    return _connected(scheme.lower(), rest.partition("/")[0])


@functools.lru_cache(maxsize=16)
def _connected(scheme: str, bucket: str) -> Any:
    if scheme in _BY_ARROW:
        from fsspec.implementations.arrow import ArrowFSWrapper

        return ArrowFSWrapper(_arrow(scheme, bucket))
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ValueError:
        raise InputError(
            f'No store is known by "{scheme}://".', hint="Give a folder, or a URL such as s3://BUCKET/PREFIX."
        ) from None
    except ImportError as error:
        raise InputError(f'"{scheme}://" needs a package that isn\'t installed: {error}') from None


def _arrow(scheme: str, bucket: str) -> Any:
    from pyarrow import fs

    if scheme != "s3":
        return fs.FileSystem.from_uri(f"gs://{bucket}")[0]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint or region:
        return fs.S3FileSystem(region=region or "us-east-1", endpoint_override=endpoint)
    return fs.FileSystem.from_uri(f"s3://{bucket}")[0]  # asks Amazon for the bucket's region
