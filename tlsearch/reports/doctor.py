"""A look at the installation, the machine and the database, for ``tlsearch doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tlsearch import registry
from tlsearch.counts import plural
from tlsearch.database.store import Store
from tlsearch.errors import DatabaseError, InputError
from tlsearch.files import cache_folder

FREE_BYTES = 2 * 2**30
"""Free disk below which searches are likely to fail."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    what: str
    ok: bool
    found: str


def examine(url: str) -> list[Check]:
    """Look at versions, plugins, processors, cache folder and database."""
    return [*_packages(), _torch(), *_plugins(), _cache(), _database(url)]


def _packages() -> list[Check]:
    names = ("tlsearch", "torch", "torchvision", "timm", "ray", "optuna", "sqlalchemy")
    return [Check(name, True, importlib.metadata.version(name)) for name in names]


def _torch() -> Check:
    import torch

    def look() -> str:
        # Fails where torch and torchvision don't match.
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        cores = len(os.sched_getaffinity(0))
        return f"{cores} CPU cores, {', '.join(gpus) if gpus else 'no GPU'}"

    return _tried("processors", look)


def _plugins() -> list[Check]:
    checks = []
    for group in registry.GROUPS:
        names = registry.installed(group)
        broken = [text for name in names if (text := registry.problem(group, name))]
        kind = group.removeprefix("tlsearch.")
        checks.append(Check(kind, not broken, "; ".join(broken) or ", ".join(names)))
    return checks


def _cache() -> Check:
    def look() -> str:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
        if free < FREE_BYTES:
            raise OSError(f"{folder} has only {free / 2**30:.1f} GiB free")
        return f"{folder}, {free / 2**30:.0f} GiB free"

    return _tried("cache", look)


def _database(url: str) -> Check:
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return Check("database", True, "none yet: `tlsearch run` makes one")

    def look() -> str:
        with Store.open(url) as store:
            problems = store.check()
            if problems:
                raise DatabaseError("; ".join(problems))
            return plural(len(store.studies()), "study", "studies")

    return _tried("database", look)


def _tried(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except (OSError, RuntimeError, ImportError, InputError) as error:
        return Check(what, False, str(error))
