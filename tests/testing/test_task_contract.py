"""The contract of tasks: the built-in ones keep it, and one that breaks it is told how."""

from __future__ import annotations

import pytest

from tlsearch import registry
from tlsearch.tasks.regression import Regression
from tlsearch.testing import TaskContract, check_task, installed


class TestRegression(TaskContract):
    task = "regression"


class TestSeveralNumbers(TaskContract):
    task = "regression"
    targets = [(number % 5, 1000.0 * number) for number in range(42)]


class TestLabelSets(TaskContract):
    task = "multilabel"
    targets = [["b", "a"], [], ["a"], ["c"]] * 10


class TestLabelColumns(TaskContract):
    task = "multilabel"
    targets = [("1", "0", "0"), ("0", "0", "0"), ("1", "1", "1")] * 12


class TestClassification(TaskContract):
    task = "classification"
    targets = ["cat", "dog", "bird"] * 14


@pytest.mark.parametrize("name", ["classification", "regression", "multilabel"])
def test_built_in_tasks_keep_it_without_pytest(name):
    assert all(result.ok for result in check_task(name)), check_task(name)
    assert name in registry.installed(registry.TASKS)


class Wrong(Regression):
    def output_gradient(self, outputs, targets, recipes):
        return 2 * super().output_gradient(outputs, targets, recipes)


def test_a_wrong_gradient_is_found():
    with installed(tasks={"wrong": Wrong}):
        failed = [result for result in check_task("wrong") if not result.ok]
    assert [result.check for result in failed] == ["loss and gradient"]
