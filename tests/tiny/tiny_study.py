"""Whole studies of the tiny backbone in this process: `study.run` itself, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from tiny_bench import BACKBONE

from tests.one_process import one_process, verify_here
from tlsearch.database.store import Store
from tlsearch.records import TrialRecord
from tlsearch.search import study
from tlsearch.search.progress import Observer, silent
from tlsearch.search.study import StudyResult
from tlsearch.spec import parse


def colours(folder: Path, *, each: int = 20, noise: float = 90.0) -> Path:
    """Noisy pictures of three hues in class folders."""
    rng = np.random.default_rng(0)
    for name, hue in (("red", (200, 60, 60)), ("green", (60, 190, 70)), ("blue", (70, 80, 200))):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = (np.array(hue) + rng.normal(0, noise, (20, 20, 3))).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:02d}.png")
    return folder


def document(pictures: Path, **changes: Any) -> dict[str, Any]:
    """A study of these pictures; sections are merged."""
    found: dict[str, Any] = {
        "study": "tiny",
        "data": {"source": "folder", "path": str(pictures)},
        "backbones": [BACKBONE],
        "strategies": ["linear_probe", "fine_tune"],
        "budget": {"trials": 5, "epochs": 1},
        "search": {"views": 2, "finalists": 1, "confirm_seeds": 0, "refit": False},
        "resources": {"concurrent": 1},
    }
    for key, value in changes.items():
        known = found.get(key)
        found[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return found


def run(folder: Path, described: dict[str, Any], *, observe: Observer = silent) -> StudyResult:
    """Run a study whose database, artifacts and cache are in a folder, or go on with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        mock.patch.dict("os.environ", {"TLSEARCH_CACHE": str(folder / "cache")}),
        one_process(verify=verify_here),
    ):
        return study.run(
            parse(described), database=url(folder), artifacts=folder / "tlsearch-artifacts", observe=observe
        )


def url(folder: Path) -> str:
    """Of the database in a folder."""
    return f"sqlite:///{folder / 'tlsearch.db'}"


def trials(folder: Path) -> list[TrialRecord]:
    """What the database holds."""
    with Store.open(url(folder)) as store:
        return store.trials("tiny")
