"""The winner's recipe once more, on all items but the test split's, with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tlsearch.contracts import Metric, Task
from tlsearch.contracts.combination import structure_of
from tlsearch.records import EpochRecord, Point, TrialRecord, TrialRole, TrialState
from tlsearch.search.finalists import again

MARGIN = 1.1
"""Measured seconds are of another run; a run that takes longer is shortened, which costs it little."""
LEAST_SHARE = 0.5
"""Share of its full length that a member must at least have time for."""
NOISE = 2.0
"""Standard errors by which a refit may be worse than the winner on items that it has learned from."""


def length(winner: TrialRecord, curve: Sequence[EpochRecord], *, task: Task, metric: str) -> int | None:
    """Epochs for the winner's recipe: those that it ran, or where it stopped early, up to its best one.

    The learning rate falls over the whole length, so a run that is to end at an epoch must be told so.

    Args:
        winner: the trial; a head or a combination has no length.
        curve: its learning curve.
        task: what is learned.
        metric: the study's.
    """
    if "stopped early" not in winner.reason or not curve:
        return curve[-1].epoch if len(curve) > 1 else None

    def order(epoch: EpochRecord) -> tuple[float, float]:
        told = {name: value for name, value in epoch.metrics.items() if value is not None}
        stop = {name.removeprefix("stop_"): value for name, value in told.items() if "stop_" in name}
        return task.rank(stop, metric) if {metric, task.tie_breaker} <= stop.keys() else (-math.inf, 0.0)

    return max(curve, key=order).epoch


def points(
    winner: TrialRecord,
    existing: Sequence[TrialRecord],
    *,
    members: int,
    epochs: int | None,
    first_number: int,
) -> list[Point]:
    """What is left to train of the winner's members; of a combination, of its first member's recipe.

    Args:
        winner: of the search.
        existing: REFIT trials of the study.
        members: how many in all.
        epochs: of each.
        first_number: of the trials to be added.
    """
    strategy, params = structure_of(winner.strategy, winner.params)
    known = {trial.seed: trial for trial in existing if trial.confirms == winner.number}
    found: list[Point] = []
    number = first_number
    for seed in range(winner.seed, winner.seed + members):
        trial = known.get(seed)
        if trial is not None and trial.state in (TrialState.RUNNING, TrialState.CANCELLED):
            found.append(replace(again(trial), epochs=epochs))
        elif trial is None or (trial.state is TrialState.COMPLETE and trial.artifact is None):
            found.append(
                Point(
                    number=number,
                    backbone=winner.backbone,
                    strategy=strategy,
                    params=params,
                    seed=seed,
                    role=TrialRole.REFIT,
                    confirms=winner.number,
                    epochs=epochs,
                )
            )
            number += 1
    return found


def members_of(winner: TrialRecord, existing: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The refits of a winner that can be handed out, by seed: whole, with their weights, the latest of each.

    One that time cut short has not been trained as the winner was.
    """
    usable = [
        trial
        for trial in existing
        if trial.confirms == winner.number
        and trial.state is TrialState.COMPLETE
        and trial.artifact is not None
        and not trial.cut_short
    ]
    by_seed = {trial.seed: trial for trial in sorted(usable, key=lambda t: t.number)}
    # Where a fit has no randomness (ridge, kNN), one is as good as three equal ones.
    return list({t.artifact.sha256: t for t in reversed(by_seed.values()) if t.artifact}.values())[::-1]


def affordable(seconds: float, *, left: float, members: int, slots: int, least: float = LEAST_SHARE) -> int:
    """How many members can be trained in the time that is left, the last of them for part of their length.

    Args:
        seconds: that one takes.
        left: for training; infinite without a time budget.
        members: wanted.
        slots: trained at once.
        least: share of its length that the last must at least have time for.
    """
    if math.isinf(left):
        return members
    rounds = int(max(0.0, left) / max(1e-6, MARGIN * seconds) + 1 - least)
    return min(members, rounds * slots)


def needed(seconds: float, *, members: int, slots: int) -> float:
    """Seconds in which so many runs are trained."""
    return MARGIN * seconds * math.ceil(members / max(1, slots))


def floor(value: float, *, items: int, metric: Metric) -> float:
    """The score that a refit must reach on validation items, which it has learned from.

    A refit has no validation of its own: it is to be no worse than the winner, but for noise, where it can
    only be better.

    Args:
        value: of the winner, on the same items.
        items: how many.
        metric: the study's.
    """
    if metric.minimize:
        return 1.5 * value + metric.slack
    share = (value * items + 1) / (items + 2)
    return value - NOISE * math.sqrt(max(0.0, share * (1 - share)) / (items + 2))
