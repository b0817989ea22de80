"""ASHA among trials that train by epochs: which are compared, and when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tlsearch.records import EpochResult
from tlsearch.search.backends.schedulers import GradientASHA, grace

STOP, CONTINUE = "STOP", "CONTINUE"
RUNGS = (2, 4, 8)


class Trial:
    """A trial that a scheduler sees."""

    def __init__(
        self,
        scheduler: GradientASHA,
        name: str,
        *,
        grace: int = 0,
        epochs: int = 10,
        prune: bool = True,
    ) -> None:
        self.scheduler, self.grace, self.epochs = scheduler, grace, epochs
        told = SimpleNamespace(
            metric_analysis={"value": 1}, metric_n_steps={"value": 1}, last_result={"value": 1}
        )
        self.own = SimpleNamespace(trial_id=name, config={"prune": prune}, run_metadata=told)
        scheduler.on_trial_add(None, self.own)

    def result(self, epoch: int, value: float) -> dict:
        told = EpochResult(0, 1, epoch, self.epochs, value, grace=self.grace)
        return {"results": [told], "epoch": epoch, "value": value}

    def run(self, *values: float) -> int:
        """Epochs until it was stopped, or all."""
        for epoch, value in enumerate(values, 1):
            if self.scheduler.on_trial_result(None, self.own, self.result(epoch, value)) == STOP:
                return epoch
        self.scheduler.on_trial_complete(None, self.own, self.result(len(values), values[-1]))
        return len(values)


@pytest.fixture
def scheduler() -> GradientASHA:
    """With three good trials that reported at every epoch up to the ninth."""
    asha = GradientASHA(
        time_attr="epoch", metric="value", mode="max", max_t=10, grace_period=2, reduction_factor=2
    )
    for number in range(3):
        assert Trial(asha, f"good {number}").run(*[0.9] * 9) == 9
    return asha


def recorded(scheduler: GradientASHA, name: str) -> dict[int, float]:
    (bracket,) = scheduler._brackets
    return {rung: values[name] for rung, values in bracket._rungs if name in values}


def test_trials_are_emptied_once_another_has_ended(scheduler):
    """Tune keeps them all, and still reads the one that has just ended."""
    first, second, third = (Trial(scheduler, name) for name in ("first", "second", "third"))
    first.run(0.9)
    second.run(0.9, 0.9)
    scheduler.on_trial_error(None, third.own)
    assert (first.own.config, first.own.run_metadata.last_result) == ({}, {})
    assert (second.own.config, second.own.run_metadata.metric_analysis) == ({}, {})
    assert third.own.run_metadata.last_result


def test_a_worse_trial_is_stopped_at_the_first_rung(scheduler):
    assert Trial(scheduler, "bad").run(*[0.1] * 9) == 2


def test_nothing_is_stopped_before_it_can_be_compared_with_three():
    few = GradientASHA(
        time_attr="epoch", metric="value", mode="max", max_t=10, grace_period=2, reduction_factor=2
    )
    for name, value, epochs in (("good", 0.9, 9), ("slow", 0.1, 9), ("worse", 0.05, 9), ("worst", 0.01, 2)):
        assert Trial(few, name).run(*[value] * 9) == epochs


def test_one_whose_desk_does_not_prune_is_let_be(scheduler):
    assert Trial(scheduler, "bad", prune=False).run(*[0.1] * 9) == 9
    assert recorded(scheduler, "bad") == {}


@pytest.mark.parametrize(("grace", "stopped"), [(1, 2), (2, 4), (3, 4), (4, 8), (7, 8), (8, 9), (20, 9)])
def test_one_that_asks_for_a_grace_at_the_first_rung_after_it(scheduler, grace, stopped):
    assert Trial(scheduler, "slow", grace=grace).run(*[0.1] * 9) == stopped


def test_a_late_starter_lives_and_teaches_no_rung_that_it_passed_over(scheduler):
    trial = Trial(scheduler, "late", grace=3)
    assert trial.run(0.1, 0.1, 0.5, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995) == 9
    assert recorded(scheduler, "late") == {4: 0.95, 8: 0.99}


def test_heads_stand_outside(scheduler):
    assert Trial(scheduler, "head", epochs=1).run(0.1) == 1
    assert recorded(scheduler, "head") == {}


@pytest.mark.parametrize(("epochs", "first"), [(2, 1), (3, 2), (4, 3), (6, 3), (7, 3), (10, 5), (50, 25)])
def test_trials_are_compared_when_half_of_them_is_done(epochs, first):
    assert grace(epochs) == first
