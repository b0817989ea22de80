"""What Optuna knows of one branch's trials: kept in memory, short, and the same however it came to be."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, create_trial

from tlsearch.records import Params, Scalar, TrialState
from tlsearch.search.space import Branch

STARTUP = 6
"""Trials of a branch before TPE models it; its starting points are among them."""
HISTORY = 60
"""TPE reads the best and the latest so many trials of a branch, and at most three times as many."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point without number or seed."""

    backbone: str
    strategy: str
    params: Params

    @property
    def branch(self) -> tuple[str, str]:
        """Its branch, as `allocation.key` tells it."""
        return self.backbone, self.strategy

    @property
    def key(self) -> str:
        """Equal for equal points."""
        return json.dumps([self.backbone, self.strategy, dict(self.params)], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Told:
    """How a trial of a branch ended. Those of elders have negative numbers."""

    number: int
    proposal: Proposal
    state: TrialState
    value: float | None


class History:
    """An Optuna study of a branch. It depends on nothing but the trials, in the order of their numbers."""

    def __init__(self, branch: Branch, *, kind: str, minimize: bool) -> None:
        self._branch = branch
        self._kind = kind
        self._direction: Literal["minimize", "maximize"] = "minimize" if minimize else "maximize"
        self._study = optuna.create_study(direction=self._direction)
        self._told: list[Told] = []
        self._base = 0

    def ask(self, fixed: Params, *, seed: str) -> tuple[Params, int]:
        """Hyperparameters that Optuna proposes, and the number of its trial.

        Args:
            fixed: hyperparameters that are given.
            seed: all that chance depends on.
        """
        self._study.sampler = _sampler(self._kind, random.Random(seed).getrandbits(32))
        if fixed:
            self._study.enqueue_trial(dict(fixed))
        branch, trial = self._branch, self._study.ask()
        chosen: dict[str, Scalar] = {}
        for hyperparameter in branch.ordered():
            if branch.exists(hyperparameter, chosen):
                chosen[hyperparameter] = _suggest(
                    trial, hyperparameter, branch.hyperparameters[hyperparameter]
                )
        return chosen, trial.number

    def begin(self, proposal: Proposal) -> int | None:
        """Know a point that runs; answers the number of its trial, None where it is outside of the space."""
        return self._add(proposal, TrialState.RUNNING, None)

    def drop(self, trial: int) -> None:
        """Forget a trial that was asked for."""
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def learn(self, told: Told, trial: int | None = None) -> None:
        """Know how a trial ended, which has that number here if it was asked for or begun.

        TPE doesn't look at failed trials and would go on proposing their like, so that they count as
        pruned; one that was pruned before it had a value ranks last.
        """
        if not told.state.final or told.state is TrialState.CANCELLED:
            if trial is not None:
                self.drop(trial)
            return
        self._told.append(told)
        if trial is None:
            self._add(told.proposal, told.state, told.value)
        elif told.state is TrialState.COMPLETE and _finite(told.value):
            self._study.tell(trial, told.value)
        else:
            if told.state is TrialState.PRUNED and told.value is not None and _finite(told.value):
                known = self._study.get_trials(deepcopy=False)[trial]
                Trial(self._study, known._trial_id).report(told.value, 0)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def shorten(self, running: Mapping[int, Proposal]) -> dict[int, int | None]:
        """Keep the study short: TPE reads all of it for every proposal.

        The best are kept, which its good region is made of, and the latest, which show where it has been.
        Which these are changes whenever so many have been added.

        Returns:
            The numbers here of the trials that run, by their numbers, where they changed.
        """
        base = len(self._told) // HISTORY * HISTORY if len(self._told) > 3 * HISTORY else 0
        if base == self._base:
            return {}
        self._base = base
        self._told.sort(key=lambda told: told.number)
        complete = [t for t in self._told[:base] if t.state is TrialState.COMPLETE and _finite(t.value)]
        sign = 1 if self._direction == "minimize" else -1
        best = sorted(complete, key=lambda told: sign * (told.value or 0.0))[:HISTORY]
        kept = {told.number: told for told in (*best, *self._told[base - HISTORY :])}
        self._study = optuna.create_study(direction=self._direction)
        for _, told in sorted(kept.items()):
            self._add(told.proposal, told.state, told.value)
        return {number: self.begin(proposal) for number, proposal in running.items()}

    def _add(self, proposal: Proposal, state: TrialState, value: float | None) -> int | None:
        """Have Optuna know a trial, open or ended; answers its number there, None where it can't be."""
        # In the order in which they are asked for.
        known = [
            hyperparameter for hyperparameter in self._branch.ordered() if hyperparameter in proposal.params
        ]
        params = {hyperparameter: proposal.params[hyperparameter] for hyperparameter in known}
        distributions: dict[str, BaseDistribution] = {
            hyperparameter: self._branch.hyperparameters[hyperparameter] for hyperparameter in known
        }
        states = optuna.trial.TrialState
        complete = state is TrialState.COMPLETE and _finite(value)
        told = {0: value} if state is TrialState.PRUNED and value is not None and _finite(value) else {}
        ended = states.COMPLETE if complete else states.PRUNED
        try:
            trial = create_trial(
                state=ended if state.final else states.RUNNING,
                value=value if complete else None,
                intermediate_values=told,
                params=params,
                distributions=distributions,
            )
        except ValueError:
            # The study's ranges were narrowed since: the point is outside of what is searched now.
            return None
        self._study.add_trial(trial)
        return len(self._study.get_trials(deepcopy=False)) - 1


def _sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    if kind != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP, seed=seed
        )


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Scalar:
    if isinstance(distribution, CategoricalDistribution):
        choice: Scalar = trial.suggest_categorical(name, distribution.choices)
        return choice
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    raise TypeError(f"{name}: {type(distribution).__name__} is not one of Optuna's own distributions")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
