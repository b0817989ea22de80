"""Trials through Ray Tune, which this file and its schedulers alone import.

Ray starts, places, reuses and restarts workers; ASHA decides which to stop. A Searcher asks the
`Dispatcher` for work, a Trainable runs it in a worker, and results go to the dispatcher; nothing is ever
read back from Ray.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tlsearch.errors import WorkError
from tlsearch.files import cache_folder
from tlsearch.records import EpochResult, Point
from tlsearch.search import ray_cluster
from tlsearch.search.backends.schedulers import STOP_SECONDS, GradientASHA, InTurn, grace
from tlsearch.search.backends.trial_backend import Dispatcher
from tlsearch.search.workers import Workers
from tlsearch.spec import StudySpec
from tlsearch.training.objective import metric_of
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

GRACE_SECONDS = 3.0
"""How long after its deadline a trial may take to evaluate what it has."""
_SCRATCH = "tlsearch-tune-"


class _Unsaved:
    """Ray Tune pickles what it is given, to restore a run from; ours are restored from the database."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialActor(tune.Trainable):
    """A worker: takes points from its configuration, yields results, stays warm for the next ones."""

    alarm: threading.Timer | None = None
    stepping = False

    def setup(self, config: dict[str, Any], assignment: WorkerConfig | None = None, home: str = "") -> None:
        """Build the runner, once in the process's life; ``home`` is the id of the driver's node."""
        if assignment is None:
            raise ValueError("a worker needs an assignment")
        if ray.get_runtime_context().get_node_id() != home:
            assignment = _at_this_node(assignment)
        if not config["gpu"]:
            assignment = replace(assignment, cuda=False)
        self.node = ray_cluster.node_name()
        self.bench = TrialRunner(assignment)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn to other points; the runner stays."""
        self.points: list[Point] = new_config["points"]
        self.open = {point.number for point in self.points}
        self.fresh = True
        deadline: float = new_config["deadline"]
        self.turn: Iterator[list[EpochResult]] = self.bench.run(self.points, deadline=deadline)
        self._end_late(deadline + GRACE_SECONDS - time.time())
        return True

    def _end_late(self, seconds: float) -> None:
        """End this process where a trial holds on past its deadline; whom it doesn't hear can't stop it."""
        if self.alarm is not None:
            self.alarm.cancel()
        if math.isfinite(seconds):
            self.alarm = threading.Timer(max(0.0, seconds), self._too_late)
            self.alarm.daemon = True
            self.alarm.start()

    def _too_late(self) -> None:
        if self.stepping:
            os._exit(1)
        self._end_late(1.0)  # an idle worker may yet be given other points, and another deadline

    def step(self) -> dict[str, Any]:
        """Results until the next of them is there: an epoch, or a batch of heads."""
        self.stepping = True
        try:
            return self._step()
        finally:
            self.stepping = False

    def _step(self) -> dict[str, Any]:
        results = [replace(result, node=self.node) for result in next(self.turn)]
        self.open -= {result.number for result in results if result.outcome is not None}
        last = results[-1]
        told: dict[str, Any] = {"results": results, "epoch": last.epoch, "done": not self.open}
        told["told_again"] = self.fresh and last.epoch > 1
        self.fresh = False
        if not self.open and self.alarm is not None:
            self.alarm.cancel()
        if last.value is not None and math.isfinite(last.value):
            told["value"] = last.value
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trials keep their own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


class DispatcherSearcher(_Unsaved, Searcher):
    """Hands the dispatcher's turns to Ray Tune, and Ray Tune's results to the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, *, on_cpus: Callable[[str], bool]) -> None:
        super().__init__(metric="value", mode="max")
        self.dispatcher = dispatcher
        self.on_cpus = on_cpus
        self.turns: dict[str, list[Point]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, None to be asked again later, FINISHED at the end."""
        points = self.dispatcher.next_turn()
        if points is None:
            return Searcher.FINISHED
        if not points:
            return None
        self.turns[trial_id] = points
        return {
            "points": points,
            "deadline": self.dispatcher.deadline,
            "prune": self.dispatcher.prune,
            "gpu": not self.on_cpus(points[0].strategy),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called for every result but a trial's last."""
        self.dispatcher.record(result["results"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Called once when a trial has ended, by itself, by the scheduler or by a failure."""
        points = self.turns.pop(trial_id, [])
        if result is not None and not error:
            self.dispatcher.record(result.get("results", []))
        self.dispatcher.ended(points, "its worker process died" if error else None)

    def save(self, checkpoint_path: str) -> None:
        """An empty file: a new driver rebuilds everything from the study database."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class DispatcherStopper(_Unsaved, tune.Stopper):
    """Stops everything when the dispatcher says so."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.impatience: threading.Timer | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped for itself."""
        return False

    def stop_all(self) -> bool:
        """Asked after every event."""
        stop = self.dispatcher.must_stop()
        if stop and self.impatience is None:
            # Tune gives each worker five seconds more, and those of this machine needn't be asked for long.
            self.impatience = threading.Timer(STOP_SECONDS, ray_cluster.kill_workers)
            self.impatience.start()
        return stop

    def over(self) -> None:
        """Let whatever runs from now on be."""
        if self.impatience is not None:
            self.impatience.cancel()


class RayTuneBackend:
    """A `TrialBackend` of Ray's workers, on this machine or a cluster.

    Workers are used again for work that takes the same resources. Where nobody else uses this Ray
    (``alone``), they stay for it even if there is nothing to do for a while.

    Args:
        workers: what Ray has for the study.
        assignment: what every trial of the study shares.
        spec: the study.
        alone: whether Ray was started for this study.
    """

    def __init__(self, workers: Workers, assignment: WorkerConfig, spec: StudySpec, *, alone: bool) -> None:
        self.workers = workers
        self.assignment = replace(assignment, cuda=workers.gpus > 0, gpu_share=workers.gpus)
        self.spec = spec
        self.alone = alone

    def slots(self) -> int:
        """Trials at once, now: other studies may share the cluster."""
        return self.workers.share()

    def run(self, dispatcher: Dispatcher) -> None:
        """Run work through one run of Ray Tune.

        Raises:
            WorkError: Ray failed, not just a worker of it.
        """
        # Tune would start workers one after another, and each takes seconds to import what it needs.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self.workers.slots)
        _sweep_scratch()
        scratch = tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-")
        stopper = DispatcherStopper(dispatcher)
        try:
            with ray_cluster.watched():
                tune.Tuner(
                    self._trainable(),
                    tune_config=tune.TuneConfig(
                        search_alg=DispatcherSearcher(dispatcher, on_cpus=self.workers.on_cpus or _none),
                        scheduler=self._scheduler(),
                        num_samples=-1,
                        reuse_actors=True,
                    ),
                    run_config=_run_config(scratch, stopper),
                ).fit()
        except (ray.exceptions.RayError, tune.TuneError) as error:
            raise WorkError(f"Ray failed: {error}") from error
        finally:
            stopper.over()
            shutil.rmtree(scratch, ignore_errors=True)

    def _resources(self, *, gpu: bool) -> tune.PlacementGroupFactory:
        cpus = {"CPU": self.spec.resources.cpus_per_trial}
        return tune.PlacementGroupFactory([{**cpus, "GPU": self.workers.gpus} if gpu else cpus])

    def _trainable(self) -> Any:
        """The worker's class; trials of strategies that run on CPUs take no GPU."""
        home = ray.get_runtime_context().get_node_id()
        with_gpu, without = self._resources(gpu=True), self._resources(gpu=False)
        return tune.with_resources(
            tune.with_parameters(TrialActor, assignment=self.assignment, home=home),
            lambda config: with_gpu if config["gpu"] else without,
        )

    def _scheduler(self) -> TrialScheduler:
        epochs = self.spec.budget.rounds
        scheduler = (
            GradientASHA(
                time_attr="epoch",
                metric="value",
                mode="min" if metric_of(self.spec).minimize else "max",
                max_t=epochs,
                grace_period=grace(epochs),
                reduction_factor=2,
            )
            if epochs > 1
            else InTurn()
        )
        if self.alone and self.workers.on_cpus is None:  # else idle workers hold what others wait for
            scheduler.warm = (self._resources(gpu=True), self.workers.slots)
        return scheduler


def _none(strategy: str) -> bool:
    return False


def _run_config(scratch: str, stopper: DispatcherStopper) -> tune.RunConfig:
    return tune.RunConfig(
        name="search",
        storage_path=scratch,
        stop=stopper,
        # The dispatcher hands out the points of a dead worker again, as their next attempt.
        failure_config=tune.FailureConfig(max_failures=0),
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        verbose=0,
    )


def _at_this_node(assignment: WorkerConfig) -> WorkerConfig:
    """The same with this node's own cache: the driver's folder may not even exist here."""
    from tlsearch.search.setup import cache_limit

    folder = cache_folder().resolve()
    return replace(assignment, cache=folder, cache_bytes=cache_limit(folder))


def _sweep_scratch() -> None:
    """Delete what drivers left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
