"""Durable trials a second, and the best of a million."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Result
from tlsearch.database.store import Lease, Store
from tlsearch.records import Costs, DatasetRecord, EpochResult, Outcome, Point, TrialState

BATCH = 100


def run(quick: bool) -> Iterator[Result]:
    """On SQLite, with every batch committed to disk before the next one begins."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(f"sqlite:///{Path(folder) / 'bench.db'}", create=True) as store,
    ):
        store.create_study(
            name="bench",
            spec={},
            metric="accuracy",
            direction="maximize",
            dataset=DatasetRecord("0" * 64, "none", ("a", "b"), {"train": 1}),
            plugins=[],
            versions={},
        )
        lease = store.acquire("bench", owner="bench")
        count = 2_000
        began = time.perf_counter()
        _fill(store, lease, 0, count, BATCH)
        rate = count / (time.perf_counter() - began)
        yield Result(
            "database",
            f"started, ended and recorded, {BATCH} to a transaction",
            f"{rate:,.0f} durable trials a second",
            "1,000",
            rate >= 1_000,
        )
        total = 100_000 if quick else 1_000_000
        _fill(store, lease, count, total, 10_000)
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            store.best("bench")
            seconds.append(time.perf_counter() - began)
        middle = statistics.median(seconds) * 1e3
        yield Result("database", f"best of {total:,} trials", f"{middle:.1f} ms", "50 ms", middle <= 50)


def _fill(store: Store, lease: Lease, start: int, end: int, batch: int) -> None:
    for first in range(start, end, batch):
        numbers = range(first, min(first + batch, end))
        store.start_trials(
            lease,
            [Point(n, "family/backbone", "strategy", {"learning_rate": 1e-3 + n * 1e-9}, 0) for n in numbers],
        )
        store.record(
            lease,
            [
                EpochResult(
                    number=n,
                    attempt=1,
                    epoch=1,
                    epochs=1,
                    value=(n * 7919 % 1_000_003) / 1_000_003,
                    outcome=Outcome(
                        state=TrialState.COMPLETE,
                        reason="bench",
                        value=(n * 7919 % 1_000_003) / 1_000_003,
                        costs=Costs(total_parameters=1_000),
                    ),
                )
                for n in numbers
            ],
        )
