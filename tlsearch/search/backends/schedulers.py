"""Which trials Ray Tune stops, and what becomes of workers and of trials that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tlsearch.records import EpochResult

STOP_SECONDS = 1
"""How long a worker has that is told to end; nothing is recorded of an epoch that it is in the midst of."""


class _Scheduler:
    """A scheduler's share of how workers come and go, and of what is kept, which Tune has no settings for.

    Where a trial hears nothing, its worker is killed. And ``warm`` workers (what each takes, and how many)
    stay while there is nothing to do for them: Tune would keep one, and have others import everything anew.

    Trials that have ended are emptied: Tune keeps them all, and 30 kB of statistics with each. It tells
    callbacks of their end, too, but imports mlflow, wandb and comet to count whose callbacks they are.
    """

    warm: tuple[tune.PlacementGroupFactory, int] | None = None
    last: Any = None

    def choose_trial_to_run(self, tune_controller: Any, **options: Any) -> Any:
        """Asked all the time; Tune waits ten seconds for each worker unless it is told otherwise."""
        tune_controller._actor_force_cleanup_timeout = STOP_SECONDS
        if self.warm is not None:
            tune_controller._actor_cache.increase_max(*self.warm)
            self.warm = None
        return super().choose_trial_to_run(tune_controller, **options)  # type: ignore[misc]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended by itself, or was stopped."""
        self.forget(trial)
        super().on_trial_complete(tune_controller, trial, result)  # type: ignore[misc]

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's worker died."""
        self.forget(trial)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]

    def forget(self, trial: Any) -> None:
        """Tune isn't done with a trial that has just ended, but with the one before it."""
        if self.last is not None:
            self.last.run_metadata.metric_analysis.clear()
            self.last.run_metadata.metric_n_steps.clear()
            self.last.run_metadata.last_result = {}
            self.last.config = self.last.evaluated_params = {}
        self.last = trial


class InTurn(_Scheduler, FIFOScheduler):
    """No trial is stopped for being worse than others."""


FEWEST = 3
"""Trials at least that one is compared with before it is stopped."""


class GradientASHA(_Scheduler, AsyncHyperBandScheduler):
    """ASHA (Li et al. 2020, arXiv:1810.05934) among trials that train by epochs.

    Heads that are finished at once stand outside: compared at equal epochs they would cull every
    fine-tuning run that would have passed them. A trial whose strategy asks for a grace enters at the first
    rung after it; the rungs that it passed over never get a value of it, which would be one of later epochs.
    So does one that was resumed: what it tells again has been compared. Nothing is stopped before it can be
    compared with `FEWEST` others: of the first two trials, one that crops pictures learns more slowly than
    one that only mirrors them, and ends in front.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let be what isn't to be compared."""
        if not self._compares(trial, result):
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, trial, result))
        at = result["results"][-1].epoch
        known = max(len(rung) for bracket in self._brackets for epoch, rung in bracket._rungs if epoch == at)
        return decision if known > FEWEST else str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let be what isn't to be compared."""
        if self._compares(trial, result):
            super().on_trial_complete(tune_controller, trial, result)
        else:
            self.forget(trial)

    def _compares(self, trial: Any, result: dict[str, Any]) -> bool:
        if not trial.config["prune"] or _one_shot(result) or result.get("told_again"):
            return False
        last: EpochResult = result["results"][-1]
        rungs = {milestone for bracket in self._brackets for milestone, _ in bracket._rungs}
        return last.epoch > last.grace and last.epoch in rungs


def grace(epochs: int) -> int:
    """The epoch at which trials are compared first: half of them, three at least, but never the last.

    Learning rates fall along a cosine. Trials with high ones are behind as long as these are high, and end in
    front: on digits at 64 pixels, the best of nine trials of four epochs was sixth after two of them.
    """
    return max(1, min(epochs - 1, max(3, epochs // 2)))


def _one_shot(result: dict[str, Any]) -> bool:
    results: Sequence[EpochResult] = result.get("results", ())
    return not results or results[-1].epochs <= 1 or "value" not in result
