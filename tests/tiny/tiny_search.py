"""A finished study without Ray: real points, trained by a real worker, recorded by a real driver."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from tiny_bench import BACKBONE, bench, point, study

from tlsearch.database.store import Lease, Store
from tlsearch.models import bundle
from tlsearch.models.rebuild import rebuild
from tlsearch.records import ModelRecord, Point, TrialRecord, TrialRole
from tlsearch.search.budget import Budget
from tlsearch.search.driver import Driver, HeldStudy, Phase
from tlsearch.search.loggers import TrialLoggers
from tlsearch.search.progress import Snapshot, silent
from tlsearch.search.setup import Prepared, prepare
from tlsearch.search.trial_queue import Fixed, is_heads
from tlsearch.spec import StudySpec
from tlsearch.testing import fixtures

CLASSES = ("plain", "<b>bold & <i>brash", "<img src=x onerror=alert(1)>")
"""Names that a page must not take for HTML."""


@dataclass(frozen=True, slots=True)
class Searched:
    """Where the study is, what a driver told of it, and what it was run with."""

    url: str
    name: str
    folder: Path
    told: tuple[Snapshot, ...]

    @property
    def store(self) -> Store:
        return Store.open(self.url)


def pictures(folder: Path, *, each: int = 24, noise: float = 150.0) -> Path:
    """Noisy pictures of three hues, hard enough for mistakes; one is broken."""
    rng = np.random.default_rng(0)
    hues = [(200, 60, 60), (60, 190, 70), (70, 80, 200)]
    for name, hue in zip(CLASSES, hues, strict=True):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = (np.array(hue) + rng.normal(0, noise, (20, 20, 3))).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:02d}.png")
    (folder / CLASSES[0] / "broken.png").write_bytes(b"no picture")
    return folder


def points() -> list[Point]:
    """Nine heads, five fine-tuned trials of several depths, and one that fails."""
    heads = [
        point("linear_probe", number=index, learning_rate=10 ** (-3 + index / 4), dropout=index / 20)
        for index in range(9)
    ]
    tuned = [
        point("fine_tune", number=9 + index, freeze_depth=index / 4, learning_rate=10 ** (-3.5 + index / 3))
        for index in range(5)
    ]
    return [*heads, *tuned, point("tiny_raising", number=14)]


def search(
    folder: Path,
    *,
    spec: StudySpec | None = None,
    tried: Sequence[Point] | None = None,
    journal: TrialLoggers | None = None,
    promoted: bool = True,
) -> Searched:
    """Run points of a study, repeat the best two, and pin the winner's model.

    The last fine-tuned trial is stopped after its first epoch, as ASHA does it.
    """
    if spec is None:
        data = {"source": "folder", "path": str(pictures(folder / "pictures")), "max_broken": 0.2}
        spec = study(data=data)
    url = f"sqlite:///{folder}/studies.db"
    prepared = prepare(spec, cache=folder / "cache", threads=1, observe=silent)
    spec, told = prepared.spec, list[Snapshot]()
    with Store.open(url, create=True) as store:
        store.create_study(
            name=spec.study,
            spec=spec.to_json(),
            metric=prepared.metric.name,
            direction=prepared.metric.direction,
            dataset=prepared.dataset,
            plugins=prepared.plugins,
            versions=prepared.versions,
        )
        lease = store.acquire(spec.study, owner="somebody@somewhere", seconds=600)
        store.update_study(lease, audit=prepared.audit)
        store.fix_items(lease, prepared.items)
        run = _Run(store, lease, spec, prepared, folder, told, journal or TrialLoggers({}))
        run.drive(list(tried) if tried is not None else points(), pruned=13 if tried is None else None)
        best = store.best(spec.study, limit=2)
        repeated = [(trial, seed) for trial in best for seed in (1, 2)]
        again = [_again(trial, seed, 20 + index) for index, (trial, seed) in enumerate(repeated)]
        if promoted:
            run.drive(again, pruned=None)
            _pin(store, lease, prepared, best[0], folder)
        store.renew(lease, elapsed=61.0)
    return Searched(url, spec.study, folder, tuple(told))


@dataclass
class _Run:
    store: Store
    lease: Lease
    spec: StudySpec
    prepared: Prepared
    folder: Path
    told: list[Snapshot]
    journal: TrialLoggers

    def drive(self, tried: Sequence[Point], *, pruned: int | None) -> None:
        heads = is_heads(self.prepared.strategies)
        held = HeldStudy(
            store=self.store,
            lease=self.lease,
            spec=self.spec,
            groups={BACKBONE: 3},
            heads=heads,
            stopping=str,
            journal=self.journal,
        )
        source = Fixed(tried, heads=heads, at_once=32)
        driver = Driver(
            held,
            Phase("search", source, total=len(tried), deadline=math.inf),
            budget=Budget(self.spec.budget, started=0, spent=0),
            slots=lambda: 1,
            observe=self.told.append,
        )
        worker = bench(self.folder, self.spec)
        while turn := driver.next_turn():
            for results in worker.run(turn, deadline=math.inf):
                driver.record(results)
                if turn[0].number == pruned:
                    break
            driver.ended(turn, None)
        driver.close()


def _again(trial: TrialRecord, seed: int, number: int) -> Point:
    return Point(
        number=number,
        backbone=trial.backbone,
        strategy=trial.strategy,
        params=trial.params,
        seed=seed,
        role=TrialRole.CONFIRM,
        confirms=trial.number,
    )


def _pin(store: Store, lease: Lease, prepared: Prepared, trial: TrialRecord, folder: Path) -> None:
    assert trial.artifact is not None
    network = rebuild(
        backbone=trial.backbone,
        weights="pretrained",
        image_size=None,
        strategy=trial.strategy,
        params=trial.params,
        **fixtures.learned(len(prepared.dataset.classes)),
        state=load_file(trial.artifact.uri),
    )
    trials = store.trials(lease.study)
    values = [t.value for t in trials if t.confirms == trial.number]
    over_seeds: Mapping[str, Any] = {
        "accuracy_mean": float(np.mean(values)),
        "accuracy_standard_error": float(np.std(values, ddof=1) / len(values) ** 0.5),
        "seeds": float(len(values)),
    }
    # A test score that the model needn't have: reports tell what was recorded, and never measure it.
    metrics = {"val": {**trial.metrics, **over_seeds}, "test": {**trial.metrics, "accuracy": 8 / 11}}
    written = bundle.write(
        folder / "model",
        network=network,
        manifest={
            "classes": list(prepared.dataset.classes),
            "image_size": None,
            "strategy": trial.strategy,
            "params": dict(trial.params),
            "metrics": metrics,
            "provenance": {},
        },
    )
    store.pin_model(
        lease,
        ModelRecord(
            study=lease.study,
            trial=trial.number,
            uri=written.uri,
            sha256=written.sha256,
            bytes=written.bytes,
            verified=True,
            metrics=metrics,
            created=datetime.now(UTC),
        ),
    )
