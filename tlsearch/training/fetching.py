"""Data in an object store: fetched once to each node, so that everything else deals with files."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from tlsearch import artifacts
from tlsearch.errors import DataError
from tlsearch.files import cache_folder, write_durably

AT_ONCE = 16
"""Files fetched at once: a store answers many as fast as one."""
KNOWN = "fetched.json"
"""Which version of which file is here."""


def local(place: str) -> Path:
    """The folder or file of this machine that holds what lies at a URL; only what changed there is fetched.

    Raises:
        DataError: nothing is there, or it can't be fetched.
    """
    home = cache_folder() / "data" / hashlib.sha256(place.encode()).hexdigest()[:32]
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        try:
            return _refreshed(place.rstrip("/"), home)
        except OSError as error:
            raise DataError(
                f"{place} can't be fetched: {error}",
                hint="Stores are reached as their own tools do it: for s3://, by AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, or ~/.aws.",
            ) from None


def _refreshed(place: str, home: Path) -> Path:
    versions = artifacts.described(place)
    if not versions:
        raise DataError(f"there is nothing at {place}")
    single = set(versions) == {""}
    root = home / "files"
    target = {name: root / (name or place.rpartition("/")[2]) for name in versions}
    for name, path in target.items():
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{place} has a file whose name leads out of it: {name!r}")
    known = _known(home)
    for name in set(known) - set(versions):
        (root / name).unlink(missing_ok=True)
    wanted = [name for name in versions if known.get(name) != versions[name] or not target[name].is_file()]

    def fetch(name: str) -> None:
        uri = artifacts.join(place, name) if name else place
        write_durably(target[name], lambda draft: artifacts.fetch_to(uri, draft))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fetch, wanted))
    if wanted or set(known) != set(versions):
        write_durably(home / KNOWN, lambda draft: draft.write_text(json.dumps(versions)))
    return target[""] if single else root


def _known(home: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((home / KNOWN).read_text())
    except (OSError, ValueError):  # a first time, or one that was broken off
        return {}
    return found
