"""Trials told to TensorBoard, MLflow or Weights & Biases while they run, by these tools' own clients.

Ray Tune's callbacks for them can't serve: they see Tune's trials, of which one may carry dozens of ours. Here
every trial of a study is a run of its own, with its parameters, its metrics by epoch, and how it ended. The
database stays the truth; a tool that fails is left out with a note, and the search goes on.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tlsearch.errors import InputError
from tlsearch.records import EpochResult, Params, Point, TrialState
from tlsearch.search.progress import Observer, Snapshot, silent
from tlsearch.spec import StudySpec

CLOSE_SECONDS = 60.0
"""How long the end of a search waits for a slow server."""


class Logger(Protocol):
    """One tool. All calls come from one thread, a trial's in order."""

    def begin(self, point: Point) -> None:
        """A trial, or another attempt of it, starts."""

    def tell(self, point: Point, result: EpochResult) -> None:
        """An epoch of a trial; the last has its outcome."""

    def close(self) -> None:
        """The search is over."""


class TrialLoggers:
    """Passes on what happens to the loggers, in a thread of its own: no search waits for a server."""

    def __init__(self, loggers: Mapping[str, Logger], observe: Observer = silent) -> None:
        self._observe = observe
        self._notes: deque[str] = deque()
        self._loggers = dict(loggers)
        self._open: dict[int, Point] = {}
        self._waiting: queue.SimpleQueue[Callable[[Logger], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tlsearch-loggers", daemon=True)
        if loggers:
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, points: Sequence[Point]) -> None:
        """Trials start."""
        if not self._loggers:
            return
        for point in points:
            self._open[point.number] = point
            self._waiting.put(lambda logger, point=point: logger.begin(point))  # type: ignore[misc]

    def tell(self, result: EpochResult) -> None:
        """A trial has come to the end of an epoch, or to its own."""
        point = self._open.get(result.number)
        if point is None:
            return
        if result.outcome is not None:
            del self._open[result.number]
        self._waiting.put(lambda logger: logger.tell(point, result))

    def note(self) -> str:
        """What went wrong and wasn't told yet, or empty."""
        return self._notes.popleft() if self._notes else ""

    def close(self) -> None:
        """Let the loggers finish."""
        if not self._thread.is_alive():
            return
        self._waiting.put(lambda logger: logger.close())
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._notes.append(
                f"{', '.join(self._loggers)} didn't accept all results within {CLOSE_SECONDS:.0f} s"
            )
        while note := self.note():
            self._observe(Snapshot(phase="end", note=note))

    def _work(self) -> None:
        while (step := self._waiting.get()) is not None:
            for name, logger in list(self._loggers.items()):
                try:
                    step(logger)
                except Exception as error:  # noqa: BLE001 - servers and disks fail in ways of their own
                    del self._loggers[name]
                    first = (str(error).splitlines() or [type(error).__name__])[0]
                    self._notes.append(f"logging to {name} stopped: {first}")


def open_journal(spec: StudySpec, observe: Observer = silent) -> TrialLoggers:
    """The journal that a study file asks for; one that tells nobody where it asks for none.

    Raises:
        InputError: a tool's package isn't installed, or it can't be reached.
    """
    makers: dict[str, tuple[str | None, Callable[[str, str], Logger]]] = {
        "tensorboard": (spec.loggers.tensorboard, TensorBoard),
        "mlflow": (spec.loggers.mlflow, MLflow),
        "wandb": (spec.loggers.wandb, WandB),
    }
    loggers: dict[str, Logger] = {}
    for name, (place, make) in makers.items():
        if place is None:
            continue
        try:
            loggers[name] = make(place, spec.study)
        except ImportError as error:
            raise InputError(
                f"loggers.{name}: the package {error.name} isn't installed.",
                hint=f"pip install {PACKAGES[name]}",
            ) from None
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"loggers.{name}: can't write to {place}: {first}") from error
    return TrialLoggers(loggers, observe)


PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow-skinny", "wandb": "wandb"}


class TensorBoard:
    """Event files, one folder a trial, under a folder for the study."""

    def __init__(self, folder: str, study: str) -> None:
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter
        self._hparams = tensorboardX.summary.hparams
        self._folder = Path(folder) / study
        existing = next(place for place in (self._folder, *self._folder.parents) if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise OSError(f"{existing} is no folder that can be written to")
        self._writers: dict[int, Any] = {}

    def begin(self, point: Point) -> None:
        """A folder of its own; another attempt gets another."""
        again = f"-attempt-{point.attempt}" if point.attempt > 1 else ""
        folder = self._folder / f"trial-{point.number:05d}{again}"
        self._writers[point.number] = self._writer(str(folder), write_to_disk=True)

    def tell(self, point: Point, result: EpochResult) -> None:
        """Scalars by epoch; parameters with the last value at the end, as the HParams tab wants them."""
        writer = self._writers[point.number]
        for name, value in _metrics(result).items():
            writer.add_scalar(name, value, result.epoch)
        if result.outcome is not None:
            final = {"value": result.outcome.value} if result.outcome.value is not None else {}
            for summary in self._hparams(_flat(point), final):
                writer.file_writer.add_summary(summary)
            for name, value in final.items():
                writer.add_scalar(name, value, result.epoch)
            writer.add_text("ended", f"{result.outcome.state.value}: {result.outcome.reason}", result.epoch)
            self._writers.pop(point.number).close()

    def close(self) -> None:
        """Close what is open still."""
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """Runs of an experiment that has the study's name."""

    STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.CANCELLED: "KILLED"}

    def __init__(self, uri: str, study: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(study)
        self._experiment = known.experiment_id if known else None
        self._study = study
        self._runs: dict[int, str] = {}

    def begin(self, point: Point) -> None:
        """A run with the trial's parameters."""
        if self._experiment is None:
            self._experiment = self._client.create_experiment(self._study)
        tags = {
            "study": self._study,
            "trial": point.number,
            "attempt": point.attempt,
            "role": point.role.value,
        }
        run = self._client.create_run(
            self._experiment,
            run_name=f"trial {point.number}",
            tags={f"tlsearch.{name}": str(value) for name, value in tags.items()},
        )
        self._runs[point.number] = run.info.run_id
        for name, value in _flat(point).items():
            self._client.log_param(run.info.run_id, name, value)

    def tell(self, point: Point, result: EpochResult) -> None:
        """Metrics by epoch, and how it ended."""
        run = self._runs[point.number]
        for name, value in _metrics(result).items():
            self._client.log_metric(run, name, value, step=result.epoch)
        if result.outcome is not None:
            if result.outcome.value is not None:
                self._client.log_metric(run, "value", result.outcome.value, step=result.epoch)
            self._client.set_tag(run, "tlsearch.state", result.outcome.state.value)
            self._client.set_tag(run, "tlsearch.reason", result.outcome.reason)
            self._client.set_terminated(run, self.STATUS.get(result.outcome.state, "FAILED"))
            del self._runs[point.number]

    def close(self) -> None:
        """End what is open still."""
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")


class WandB:
    """Runs of a project, in a group that has the study's name; WANDB_MODE=offline keeps them here."""

    def __init__(self, project: str, study: str) -> None:
        import wandb

        self._wandb = wandb
        self._project, self._study = project, study
        self._runs: dict[int, Any] = {}

    def begin(self, point: Point) -> None:
        """A run with the trial's parameters."""
        self._runs[point.number] = self._wandb.init(
            project=self._project,
            group=self._study,
            name=f"{self._study} trial {point.number}",
            config=dict(_flat(point)),
            tags=[point.strategy, point.role.value],
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def tell(self, point: Point, result: EpochResult) -> None:
        """Metrics by epoch, and how it ended."""
        run = self._runs[point.number]
        run.log(_metrics(result), step=result.epoch)
        if result.outcome is not None:
            run.summary.update(
                {
                    "state": result.outcome.state.value,
                    "reason": result.outcome.reason,
                    "value": result.outcome.value,
                }
            )
            run.finish(exit_code=0 if result.outcome.state is not TrialState.FAILED else 1)
            del self._runs[point.number]

    def close(self) -> None:
        """End what is open still."""
        for run in self._runs.values():
            run.finish(exit_code=1)


def _metrics(result: EpochResult) -> dict[str, float]:
    """What was measured in an epoch; the study's own metric is ``value``."""
    own = {"value": result.value} if result.value is not None else {}
    return {**result.metrics, **own, "seconds": result.seconds}


def _flat(point: Point) -> Params:
    """All that was chosen."""
    return {"strategy": point.strategy, "backbone": point.backbone, "seed": point.seed, **point.params}
