"""Our trials as Optuna's: what `optuna.visualization`, `optuna.importance` and optuna-dashboard understand.

Repetitions of finalists with fresh seeds are left out: they are no proposals, and would count points twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tlsearch.records import EpochRecord, Scalar, TrialRecord, TrialRole, TrialState

LOG_SPAN = 30.0
"""Values that span this factor or more were surely searched on a logarithmic scale."""

STATES = {
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.CANCELLED: OptunaState.FAIL,
}


def frozen_trials(
    trials: Iterable[TrialRecord],
    curves: Mapping[int, Sequence[EpochRecord]],
    *,
    overrides: Mapping[str, Any],
    first_id: int,
    own_names: bool = False,
) -> list[FrozenTrial]:
    """Search trials as Optuna's, with the numbers that they have here.

    Args:
        trials: of one study.
        curves: learning curves by trial number, which become intermediate values.
        overrides: the study file's ``space``.
        first_id: what a trial's number is added to for its id.
        own_names: leave out ``backbone`` and ``strategy``, and call hyperparameters by their own names; for
            the trials of one strategy on its own.
    """
    searched = [trial for trial in trials if trial.role is TrialRole.SEARCH]
    params = [_params(trial, own_names=own_names) for trial in searched]
    known = ranges(params, {} if own_names else overrides)
    return [
        _frozen(trial, chosen, known, curves.get(trial.number, ()), first_id)
        for trial, chosen in zip(searched, params, strict=True)
    ]


def ranges(
    params: Iterable[Mapping[str, Scalar]], overrides: Mapping[str, Any]
) -> dict[str, BaseDistribution]:
    """What each parameter can be: the values that were tried, and the bounds that the study file gives.

    A database holds values, not the spaces of the plugins that proposed them; those may be gone or changed.
    """
    tried: dict[str, list[Scalar]] = {}
    for point in params:
        for name, value in point.items():
            tried.setdefault(name, []).append(value)
    found = {}
    for name, values in tried.items():
        given = overrides.get(name) or overrides.get(f"*.{name.partition('.')[2]}") or {}
        found[name] = _range(values, given if isinstance(given, Mapping) else {})
    return found


def _range(values: Sequence[Scalar], given: Mapping[str, Any]) -> BaseDistribution:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        choices = {(type(value).__name__, value): value for value in values}
        return CategoricalDistribution([choices[key] for key in sorted(choices, key=str)])
    numbers = [value for value in values if isinstance(value, int | float)]
    bounds = [given[end] for end in ("low", "high") if isinstance(given.get(end), int | float)]
    low, high = min([*numbers, *bounds]), max([*numbers, *bounds])
    log = low > 0 and (high / low >= LOG_SPAN if given.get("log") is None else bool(given["log"]))
    if all(isinstance(value, int) for value in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _params(trial: TrialRecord, *, own_names: bool) -> dict[str, Scalar]:
    if own_names:
        return dict(trial.params)
    hyperparameters = {
        f"{trial.strategy}.{hyperparameter}": value for hyperparameter, value in trial.params.items()
    }
    return {"backbone": trial.backbone, "strategy": trial.strategy, **hyperparameters}


def _frozen(
    trial: TrialRecord,
    params: Mapping[str, Scalar],
    known: Mapping[str, BaseDistribution],
    curve: Sequence[EpochRecord],
    first_id: int,
) -> FrozenTrial:
    state = STATES[trial.state]
    if state is OptunaState.COMPLETE and trial.value is None:
        state = OptunaState.FAIL
    valued = state in (OptunaState.COMPLETE, OptunaState.PRUNED)
    return FrozenTrial(
        number=trial.number,
        trial_id=first_id + trial.number,
        state=state,
        value=trial.value if valued else None,
        values=None,
        datetime_start=_local(trial.started),
        datetime_complete=_local(trial.finished) if trial.finished is not None else None,
        params=_numbers(params, known),
        distributions={name: known[name] for name in params},
        user_attrs=_attributes(trial),
        system_attrs={},
        intermediate_values={epoch.epoch: epoch.value for epoch in curve if epoch.value is not None},
    )


def _numbers(params: Mapping[str, Scalar], known: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Values of the kind that their range holds: JSON doesn't keep 1.0 and 1 apart everywhere."""
    return {
        name: float(value)
        if isinstance(known[name], FloatDistribution) and isinstance(value, int | float)
        else value
        for name, value in params.items()
    }


def _attributes(trial: TrialRecord) -> dict[str, Any]:
    """What a trial's page is to show besides; numbers can be sorted by."""
    told: dict[str, Any] = {
        "state": trial.state.value,
        "why it ended": trial.reason,
        "seed": trial.seed,
        "attempt": trial.attempt,
        "seconds": round(trial.costs.seconds, 3),
        "parameters": trial.costs.total_parameters,
        "trained parameters": trial.costs.trainable_parameters,
    }
    if trial.freeze_depth is not None and trial.groups is not None:
        told["frozen groups"] = trial.freeze_depth
        told["groups"] = trial.groups
    return {**told, **{f"metric {name}": value for name, value in sorted(trial.metrics.items())}}


def _local(time: datetime) -> datetime:
    """Optuna's times are local and know no zone."""
    return time.astimezone().replace(tzinfo=None)
