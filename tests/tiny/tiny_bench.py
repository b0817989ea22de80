"""Studies, runners and points around the tiny backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlsearch import registry
from tlsearch.records import EpochResult, Outcome, Point
from tlsearch.spec import StudySpec, parse
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

BACKBONE = "tiny/net"


def study(**changes: Any) -> StudySpec:
    """A study of the tiny backbone; sections are merged."""
    document: dict[str, Any] = {
        "study": "tiny",
        "data": {"source": "tiny_colours"},
        "backbones": [BACKBONE],
        "budget": {"trials": 8, "epochs": 3},
        "search": {"views": 2},
    }
    for key, value in changes.items():
        known = document.get(key)
        document[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return parse(document)


def bench(folder: Path, spec: StudySpec | None = None, **changes: Any) -> TrialRunner:
    """A worker's bench whose caches and artifacts are in a folder."""
    given: dict[str, Any] = {
        "spec": spec or study(),
        "cache": folder / "cache",
        "artifacts": str(folder / "artifacts"),
        "cache_bytes": 2**28,
        "threads": 1,
        "cuda": False,
    }
    return TrialRunner(WorkerConfig(**{**given, **changes}))


def point(strategy: str = "fine_tune", number: int = 0, **changes: Any) -> Point:
    """A strategy's default with other values for some hyperparameters, or with ``params`` instead of the
    default's.

    Without augmentation where none is asked for: what is counted and compared is then one view's.
    """
    own = {"seed": 0, **{key: changes.pop(key) for key in ("seed", "attempt") if key in changes}}
    params: Mapping[str, Any] | None = changes.pop("params", None)
    if params is None:
        info = registry.backbone(BACKBONE, weights="pretrained", image_size=None).info
        default = dict(registry.strategy(strategy).default(info))
        if "augmentation" in default:
            default["augmentation"] = "none"
        params = {**default, **changes}
    return Point(number=number, backbone=BACKBONE, strategy=strategy, params=params, **own)


def results(worker: TrialRunner, *points: Point, deadline: float = math.inf) -> list[EpochResult]:
    """All that a worker yields."""
    return [result for turn in worker.run(points, deadline=deadline) for result in turn]


def outcomes(told: Sequence[EpochResult]) -> dict[int, Outcome]:
    """How each point ended: by its last result, which is the only one that tells."""
    found: dict[int, Outcome] = {}
    for result in told:
        assert result.number not in found, "nothing follows an outcome"
        if result.outcome is not None:
            found[result.number] = result.outcome
    return found
