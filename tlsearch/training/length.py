"""How long a trial trains: by updates of the optimizer, which follow from the data unless the study says."""

from __future__ import annotations

from tlsearch.spec import BudgetSpec

LEAST_UPDATES = 300
"""Few images need many passes. BiT (Kolesnikov et al. 2020, arXiv:1912.11370) takes 500 updates at batches of
512 below 20,000 images; 300 at batches of 32 measured a point better than 125 on 800 images."""
LEAST_PASSES = 5
"""Where this is more than `LEAST_UPDATES`, all items are still seen a few times."""


def count_updates(budget: BudgetSpec, length: float, epochs: int, batches: int) -> int:
    """Updates of a trial.

    Args:
        budget: its ``epochs``, where they are given, are passes over the data.
        length: of the trial, 1 being the usual.
        epochs: evaluations of the trial; fewer than the study's train proportionally less.
        batches: of one pass.
    """
    usual = budget.epochs * batches if budget.epochs else max(LEAST_UPDATES, LEAST_PASSES * batches)
    return max(epochs, round(length * usual * epochs / budget.rounds))
