"""Which hyperparameters made the difference: Optuna's importance measures, one strategy at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from tlsearch.records import TrialState
from tlsearch.reports.evidence import Evidence

ENOUGH = 8
"""Finished trials of a strategy below which its hyperparameters can't be told apart."""
MOST = 1000
"""Trials looked at: the latest; a forest over more takes long and tells no more."""


def importances(evidence: Evidence) -> tuple[dict[str, Mapping[str, float]], list[str]]:
    """Shares of the variance that each hyperparameter explains (fANOVA, Hutter et al. 2014), by strategy.

    Returns:
        Hyperparameters and shares by strategy, and a sentence for each strategy that has too few trials.
    """
    import optuna

    from tlsearch.reports.optuna_trials import frozen_trials

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Mapping[str, float]] = {}
    left_out: list[str] = []
    for strategy in evidence.strategies:
        own = [t for t in evidence.complete if t.strategy == strategy][-MOST:]
        if len(own) < ENOUGH:
            left_out.append(f"{strategy} ({len(own)} finished)")
            continue
        study = optuna.create_study(
            direction="minimize" if evidence.minimize else "maximize",
            storage=optuna.storages.InMemoryStorage(),
        )
        study.add_trials(frozen_trials(own, {}, overrides={}, first_id=0, own_names=True))
        shared = set.intersection(*(set(t.params) for t in own if t.state is TrialState.COMPLETE))
        varied = sorted(
            hyperparameter for hyperparameter in shared if len({t.params[hyperparameter] for t in own}) > 1
        )
        if not varied or len({t.value for t in own}) < 2:
            left_out.append(f"{strategy} (nothing varied)")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental features, forests of few trials
            found[strategy] = optuna.importance.get_param_importances(
                study, params=varied, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
    return found, left_out
