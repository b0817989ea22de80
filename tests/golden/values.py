"""The values that `test_golden` compares, computed: of the tiny data, backbone and a few points."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tlsearch import registry
from tlsearch.models import bundle
from tlsearch.records import Point
from tlsearch.spec import parse
from tlsearch.training import sources
from tlsearch.training.data import make_data
from tlsearch.training.objective import settled
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

TINY = str(Path(__file__).parents[1] / "tiny")
OLD_BUNDLE = Path(__file__).parent / "bundle"
STUDY = {
    "study": "golden",
    "data": {"source": "tiny_colours", "noise": 120.0, "count": 150},
    "backbones": ["tiny/net"],
    "budget": {"trials": 8, "epochs": 3},
    "search": {"views": 2},
}
LINEAR = {"learning_rate": 0.03, "weight_decay": 0.01, "label_smoothing": 0.1, "dropout": 0.2}
TUNED = {
    "freeze_depth": 0.34,
    "learning_rate": 0.003,
    "head_multiplier": 2.0,
    "layer_decay": 0.9,
    "weight_decay": 0.001,
    "dropout": 0.1,
    "label_smoothing": 0.05,
    "optimizer": "adamw",
    "batch_size": 16,
    "patience": 5,
}
POINTS = {
    "heads": [
        ("linear_probe", {**LINEAR, "augmentation": "none"}),
        ("linear_probe", {**LINEAR, "augmentation": "none", "label_smoothing": 0.0, "dropout": 0.0}),
    ],
    "tuned": [("fine_tune", {**TUNED, "augmentation": "none"})],
    "mixed": [("fine_tune", {**TUNED, "augmentation": "mixup", "freeze_depth": 0.67})],
    "augmented": [("fine_tune", {**TUNED, "augmentation": "light"})],
}


def found(folder: Path) -> dict[str, Any]:
    """Everything, with caches and files in a folder."""
    if TINY not in sys.path:
        sys.path.append(TINY)
    registry.forget()
    spec = parse(STUDY)
    bench = TrialRunner(
        WorkerConfig(
            spec=spec,
            cache=folder / "cache",
            artifacts=str(folder / "artifacts"),
            cache_bytes=2**28,
            threads=1,
            cuda=False,
        )
    )
    scores = {}
    for name, asked in points().items():
        given = [Point(number, "tiny/net", one, params, seed=3) for number, (one, params) in enumerate(asked)]
        for results in bench.run(given):
            for result in results:
                if result.outcome is not None:
                    assert result.outcome.metrics, result.outcome.reason
                    scores[f"{name} {result.number}"] = dict(result.outcome.metrics)
    document = settled(parse({key: STUDY[key] for key in ("study", "data", "backbones")})).to_json()
    return {
        "identities": {**_identities(bench), "activations": _entries(folder / "cache" / "activations")},
        "scores": scores,
        "predictions": _predictions(),
        "document": {key: document[key] for key in ("study", "data", "backbones", "objective")},
    }


def points() -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Batches of points, by name; the kinds of features that a copy votes with are its own."""
    info = registry.backbone("tiny/net", weights="pretrained", image_size=None).info
    starts = registry.strategy("feature_copy").starts(info)
    return {**POINTS, "copies": [("feature_copy", dict(params)) for params in starts]}


def _identities(bench: TrialRunner) -> dict[str, Any]:
    listed = sources.listing(bench.assignment.spec.data)
    inputs = bench.backbone("tiny/net").info.inputs
    data = make_data(listed, inputs, bench.items, seed=bench.assignment.spec.seed)
    return {
        "fingerprint": data.fingerprint,
        "contents": _digest("".join(listed.hashes).encode()),
        "data key": data.key,
        "splits": {name: indices.tolist() for name, indices in data.indices.items()},
        "audit": dataclasses.asdict(data.audit),
    }


def _entries(folder: Path) -> list[str]:
    """Keys of what is stored."""
    return sorted(path.stem for path in folder.glob("*.lock"))


def _predictions() -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    items = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(6)]
    model = bundle.load(OLD_BUNDLE)
    told = [dict(one) for one in model.describe(items)]
    logits = model.logits(items)
    return [{**one, "logits": row.tolist()} for one, row in zip(told, logits, strict=True)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
