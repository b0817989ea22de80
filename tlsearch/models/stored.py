"""Bundles in an object store: put there file by file, the description last; fetched into the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

from tlsearch import artifacts
from tlsearch.errors import BundleError
from tlsearch.files import cache_folder, scratch, write_durably


def publish(folder: Path, place: str, *, weights: str, manifest: str) -> None:
    """Copy a bundle into a store. Whoever finds the description finds the weights that it tells of.

    Raises:
        OSError: the store can't be reached or written to.
    """
    for name in (weights, manifest):
        artifacts.put(artifacts.join(place, name), partial(shutil.copyfile, folder / name))


def fetched(place: str, *, weights: str, manifest: str) -> Path:
    """A folder of this machine that holds the bundle; what is there already and whole is not fetched again.

    Raises:
        BundleError: it isn't there, or isn't what was written.
    """
    try:
        text = _text(place, manifest)
        checksum = str(json.loads(text)["sha256"])
        folder = cache_folder() / "bundles" / hashlib.sha256(text).hexdigest()
        content = artifacts.get(artifacts.join(place, weights), sha256=checksum)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{place}/{manifest} is not a bundle's description: {error!r}") from None
    except FileNotFoundError:
        raise BundleError(
            f"{place} is not a model bundle: it has no {manifest}, or no {weights}.",
            hint="`tlsearch best STUDY` names the bundle of a study.",
        ) from None
    except OSError as error:
        raise BundleError(f"The bundle {place} can't be fetched: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / manifest, lambda draft: draft.write_bytes(text))
    link = folder / weights
    if not (link.is_symlink() and link.resolve() == content.resolve()):
        link.unlink(missing_ok=True)
        link.symlink_to(content.resolve())
    return folder


def _text(place: str, manifest: str) -> bytes:
    with scratch("download") as folder:
        draft = Path(folder) / manifest
        artifacts.fetch_to(artifacts.join(place, manifest), draft)
        return draft.read_bytes()
