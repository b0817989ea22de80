"""What a trial of a head costs beyond its arithmetic, beside one Ray trial for each head."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.benchmarks.bench import BACKBONE
from tests.benchmarks.measure import Result
from tlsearch.database.store import Store
from tlsearch.search import own_process, study
from tlsearch.search.progress import Snapshot
from tlsearch.spec import parse


def run(quick: bool) -> Iterator[Result]:
    """Linear probes on digits: many to a Ray trial, then one to a Ray trial, then the driver's own."""
    count = 64 if quick else 256
    # Heads as few and small as these the driver would fit itself.
    with mock.patch.object(own_process, "SECONDS", 0.0):
        together = _per_trial(count, heads_per_trial=32)
        alone = _per_trial(16 if quick else 32, heads_per_trial=1)
    own = _per_trial(64, heads_per_trial=32)
    yield Result(
        "orchestration",
        f"{count} linear probes, 32 to a Ray trial",
        f"{together[0] * 1e3:.1f} ms a trial beside its own {together[1] * 1e3:.1f} ms",
        "10 ms",
        together[0] <= 0.010,
    )
    ratio = sum(alone) / sum(together)
    yield Result(
        "orchestration",
        "one Ray trial a head, warm actors",
        f"{sum(alone) * 1e3:.0f} ms a trial: {ratio:.0f} times as long",
        "35 times",
        ratio >= 35,
    )
    yield Result(
        "orchestration",
        "64 linear probes that the driver fits itself before Ray is there",
        f"{own[0] * 1e3:.1f} ms a trial beside its own {own[1] * 1e3:.1f} ms",
        "10 ms",
        own[0] <= 0.010,
    )


def _per_trial(trials: int, *, heads_per_trial: int) -> tuple[float, float]:
    """Wall seconds of a search per trial: what isn't the worker's own work, and what is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TLSEARCH_CACHE"] = str(folder / "cache")
        database = f"sqlite:///{folder / 'bench.db'}"
        spec = parse(
            {
                "study": "heads",
                "data": {"source": "digits", "image_size": 64},
                "backbones": [BACKBONE],
                "strategies": ["linear_probe"],
                "space": {"*.augmentation": ["none"], "*.dropout": [0.0]},
                "budget": {"trials": trials + heads_per_trial},
                "resources": {"concurrent": 1},
                "search": {"heads_per_trial": heads_per_trial, "finalists": 1, "confirm_seeds": 0},
            }
        )
        marks: list[tuple[float, int]] = []

        def watch(snapshot: Snapshot) -> None:
            if snapshot.phase == "search":
                marks.append((time.perf_counter(), snapshot.done))

        study.run(spec, database=database, artifacts=folder / "artifacts", observe=watch)
        # The first turn starts the worker and stores the features: it is not a trial's cost.
        began = next(moment for moment, done in marks if done >= heads_per_trial)
        ended = marks[-1][0]
        with Store.open(database) as store:
            work = sum(t.costs.seconds for t in store.trials("heads") if t.number >= heads_per_trial)
        wall = ended - began
        return max(0.0, wall - work) / trials, work / trials
