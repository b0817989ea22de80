"""The only file that imports ray.tune: a Searcher that asks our driver, a Trainable that runs our worker.

Ray starts, places, reuses and restarts workers; ASHA decides which to stop. Proposals and results go through
`Desk`; nothing is ever read back from Ray.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tlsearch.errors import WorkError
from tlsearch.records import EpochResult, Point
from tlsearch.training.trial import Assignment, Workbench

RETRIES = 2
"""How often a trial starts again whose worker process died."""

_ENVIRONMENT = {
    # Result files, progress tables and state snapshots of Tune's own: nobody reads them here.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # A trial that failed has no value to report.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is the driver's business.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_daemons: list[psutil.Process] = []
"""Ray's own processes on this machine, where this process started them."""


class Desk(Protocol):
    """Where workers' turns are handed out and results come in; the driver's side of this file."""

    def next_turn(self) -> list[Point] | None:
        """Points for a worker; an empty list while there are none yet, None when there will be none."""

    def record(self, results: Sequence[EpochResult]) -> None:
        """Take results as they come."""

    def ended(self, points: Sequence[Point], error: str | None) -> None:
        """Take note that a worker is done with its points, or died of ``error``."""

    def must_stop(self) -> bool:
        """Whether all workers are to be stopped now."""


class _Unsaved:
    """Ray Tune pickles what it is given, to restore a run from; ours are restored from the database."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialActor(tune.Trainable):
    """A worker: takes points from its configuration, yields results, stays warm for the next ones."""

    def setup(self, config: dict[str, Any], assignment: Assignment | None = None) -> None:
        """Build the workbench, once in the process's life."""
        if assignment is None:
            raise ValueError("a worker needs an assignment")
        self.bench = Workbench(assignment)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn to other points; the workbench stays."""
        self.points: list[Point] = new_config["points"]
        self.open = {point.number for point in self.points}
        self.turn: Iterator[list[EpochResult]] = self.bench.run(self.points, deadline=new_config["deadline"])
        return True

    def step(self) -> dict[str, Any]:
        """Results until the next of them is there: an epoch, or a batch of heads."""
        results = next(self.turn)
        self.open -= {result.number for result in results if result.outcome is not None}
        last = results[-1]
        told: dict[str, Any] = {"results": results, "epoch": last.epoch, "done": not self.open}
        if last.value is not None:
            told["value"] = last.value
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial whose worker died starts again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


class DeskSearcher(_Unsaved, Searcher):
    """Hands the desk's turns to Ray Tune, and Ray Tune's results to the desk."""

    def __init__(self, desk: Desk, *, deadline: float) -> None:
        super().__init__(metric="value", mode="max")
        self.desk = desk
        self.deadline = deadline
        self.turns: dict[str, list[Point]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A configuration, None to be asked again later, FINISHED at the end."""
        points = self.desk.next_turn()
        if points is None:
            return Searcher.FINISHED
        if not points:
            return None
        self.turns[trial_id] = points
        return {"points": points, "deadline": self.deadline}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called for every result but a trial's last."""
        self.desk.record(result["results"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Called once when a trial has ended, by itself, by the scheduler or by a failure."""
        points = self.turns.pop(trial_id, [])
        if result is not None and not error:
            self.desk.record(result.get("results", []))
        self.desk.ended(points, "its worker process died" if error else None)

    def save(self, checkpoint_path: str) -> None:
        """An empty file: a new driver rebuilds everything from the study database."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class GradientASHA(AsyncHyperBandScheduler):
    """ASHA (Li et al. 2020, arXiv:1810.05934) among trials that train by epochs.

    Heads that are finished at once stand outside: compared at equal epochs they would cull every
    fine-tuning run that would have passed them.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let one-shot fits be."""
        if _one_shot(result):
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let one-shot fits be."""
        if not _one_shot(result):
            super().on_trial_complete(tune_controller, trial, result)


class DeskStopper(_Unsaved, tune.Stopper):
    """Stops everything when the desk says so."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped for itself."""
        return False

    def stop_all(self) -> bool:
        """Asked after every event."""
        return self.desk.must_stop()


def start(*, address: str | None, cpus: int | None = None) -> None:
    """Start Ray on this machine, or join the cluster at ``address``; a Ray that runs already is used.

    Raises:
        WorkError: it doesn't start, or there is no cluster there.
    """
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        # "local" never joins somebody's cluster by accident.
        options.update(address="local", include_dashboard=False, num_cpus=cpus)
    else:
        options.update(address=address)
    before = psutil.Process().children()
    try:
        with _own_signals():
            ray.init(**options)
        _daemons[:] = [process for process in psutil.Process().children() if process not in before]
    except (ConnectionError, RuntimeError, OSError) as error:
        raise WorkError(f"Ray doesn't start: {error}") from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep SIGTERM the driver's own business while Ray starts.

    Ray's processes inherit that it is blocked, as Ray itself sees to for SIGINT: a SIGTERM to all of a group
    (systemd, Slurm) would otherwise end them under the driver, which then waits a minute for their return.
    Ray also puts a handler of its own into the driver, which exits at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def slots(*, cpus_per_trial: int, gpus_per_trial: float) -> int:
    """How many trials the cluster can run at once.

    Raises:
        WorkError: not even one.
    """
    have = ray.cluster_resources()
    by_cpu = int(have.get("CPU", 0) // cpus_per_trial)
    by_gpu = int(have.get("GPU", 0) / gpus_per_trial + 1e-9) if gpus_per_trial else by_cpu
    if min(by_cpu, by_gpu) < 1:
        raise WorkError(
            f"A trial asks for {cpus_per_trial} CPUs and {gpus_per_trial:g} GPUs; Ray has "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs.",
            hint="Lower resources.cpus_per_trial or resources.gpus_per_trial in the study file.",
        )
    return min(by_cpu, by_gpu)


def has_gpus() -> bool:
    """Whether the cluster has any GPU."""
    return bool(ray.cluster_resources().get("GPU", 0) > 0)


def stop() -> None:
    """End this process's Ray, and on this machine whatever belongs to it."""
    if not ray.is_initialized():
        return
    family = [*_daemons, *(process for daemon in _daemons for process in _descendants(daemon))]
    # Ray asks each by SIGTERM, which they don't hear (see `_own_signals`), and waits a second for it.
    impatience = threading.Timer(0.5, _kill, [_daemons])
    impatience.start()
    try:
        ray.shutdown()
    finally:
        impatience.join()
        _kill(family)
        _daemons.clear()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def run(
    desk: Desk,
    *,
    assignment: Assignment,
    cpus_per_trial: int,
    gpus_per_trial: float,
    slots: int,
    epochs: int,
    minimize: bool,
    prune: bool,
    deadline: float,
) -> None:
    """Run turns until the desk has none left or says stop; results are the desk's.

    Raises:
        WorkError: Ray failed, not just a worker of it.
    """
    # Tune would start workers one after another, and each takes seconds to import what it needs.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    mode = "min" if minimize else "max"
    scheduler = (
        GradientASHA(
            time_attr="epoch",
            metric="value",
            mode=mode,
            max_t=epochs,
            grace_period=max(1, min(2, epochs - 1)),
            reduction_factor=2,
        )
        if prune and epochs > 1
        else FIFOScheduler()
    )
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, assignment=assignment),
        tune.PlacementGroupFactory([{"CPU": cpus_per_trial, "GPU": gpus_per_trial}]),
    )
    scratch = tempfile.mkdtemp(prefix="tlsearch-tune-")
    try:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=DeskSearcher(desk, deadline=deadline),
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                stop=DeskStopper(desk),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    except (ray.exceptions.RayError, tune.TuneError) as error:
        raise WorkError(f"Ray failed: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _one_shot(result: dict[str, Any]) -> bool:
    results: Sequence[EpochResult] = result.get("results", ())
    return not results or results[-1].epochs <= 1 or "value" not in result
