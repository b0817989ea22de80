"""How many updates a trial has."""

from __future__ import annotations

import pytest

from tlsearch.spec.sections import ROUNDS, BudgetSpec
from tlsearch.training.length import count_updates


@pytest.mark.parametrize(
    ("batches", "length", "updates"),
    [(2, 1.0, 300), (25, 1.0, 300), (25, 2.0, 600), (25, 0.5, 150), (157, 1.0, 785), (157, 2.0, 1570)],
)
def test_few_items_train_as_long_as_many(batches, length, updates):
    budget = BudgetSpec()
    assert count_updates(budget, length, budget.rounds, batches) == updates


def test_epochs_that_are_given_are_passes():
    budget = BudgetSpec(epochs=7)
    assert budget.rounds == 7
    assert count_updates(budget, 1.0, 7, 4) == 28


@pytest.mark.parametrize("budget", [BudgetSpec(epochs=8), BudgetSpec()])
def test_fewer_evaluations_train_less(budget):
    whole = count_updates(budget, 1.0, budget.rounds, 50)
    assert count_updates(budget, 1.0, budget.rounds // 2, 50) == whole // 2


def test_every_evaluation_has_an_update():
    assert count_updates(BudgetSpec(epochs=3), 0.1, 3, 1) == 3
    assert BudgetSpec().rounds == ROUNDS
