"""How many updates a trial has."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from tlsearch.spec.sections import ROUNDS, BudgetSpec
from tlsearch.training import length as lengths
from tlsearch.training.heads import schedule
from tlsearch.training.length import FIRST_LOOK, Length, count_updates


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


class Clock:
    """A fit in a time that the test tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(lengths, "time", SimpleNamespace(time=lambda: self.now))

    def fit(self, length: Length, *, step: list[float], evaluation: float = 0.0) -> list[float]:
        """The factors of the learning rate, update by update; each epoch has a pace of its own."""
        taken, factors = 0, []
        for epoch in range(1, length.epochs + 1):
            seconds = step[min(epoch, len(step)) - 1]
            while taken < length.end_of(epoch):
                taken += 1
                factors.append(schedule(length.position(taken), length.planned))
                self.now += seconds
                length.stepped(taken, epoch=epoch, seconds=seconds)
            self.now += evaluation
            length.evaluated(taken, epoch=epoch, seconds=evaluation)
        return factors


def test_time_that_suffices_changes_nothing(monkeypatch):
    plain = Clock(monkeypatch).fit(Length(300, epochs=12), step=[0.1])
    assert plain == [schedule(step, 300) for step in range(1, 301)]
    assert Clock(monkeypatch).fit(Length(300, epochs=12, deadline=40), step=[0.1]) == plain


@pytest.mark.parametrize("deadline", [8.0, 15.0, 25.0])
def test_a_fit_is_shortened_so_that_its_learning_rate_comes_to_rest_in_time(monkeypatch, deadline):
    clock = Clock(monkeypatch)
    length = Length(300, epochs=12, deadline=deadline)
    factors = clock.fit(length, step=[0.1], evaluation=0.1)
    assert deadline - 2.5 < clock.now <= deadline
    assert max(factors) > 0.97
    assert factors[-1] == pytest.approx(0, abs=1e-6)
    steps = [abs(after - before) for before, after in itertools.pairwise(factors)]
    assert max(steps) <= 1.2 * (300 / len(factors)) / 30, "no jump where the plan was changed"
    assert length.remark() == f", shortened to {len(factors)} of 300 updates to fit the time left"


def test_a_machine_that_becomes_slow_shortens_what_is_left_and_one_that_recovers_lengthens_it(monkeypatch):
    clock = Clock(monkeypatch)
    slow = Length(300, epochs=12, deadline=32)
    factors = clock.fit(slow, step=[0.1] * 6 + [0.4] * 6)
    assert clock.now <= 32
    assert 150 < len(factors) < 300
    assert factors[-1] == pytest.approx(0, abs=1e-6)
    clock.now = 0.0
    recovered = Length(300, epochs=12, deadline=34)
    assert len(clock.fit(recovered, step=[0.4] * 2 + [0.05] * 10)) > 200
    assert clock.now <= 34


def test_an_epoch_that_becomes_slow_is_shortened_itself(monkeypatch):
    clock = Clock(monkeypatch)
    length = Length(100, epochs=2, deadline=16)
    factors = clock.fit(length, step=[0.1, 0.4])
    assert clock.now <= 16
    assert len(factors) < 100
    assert factors[-1] == pytest.approx(0, abs=1e-6)


def test_every_epoch_has_an_update_however_late_it_is(monkeypatch):
    clock = Clock(monkeypatch)
    length = Length(300, epochs=12, deadline=0.5)
    taken = len(clock.fit(length, step=[1.0]))
    assert taken == length.total == FIRST_LOOK + 12


def test_a_shortened_fit_that_goes_on_elsewhere_goes_on_as_it_was(monkeypatch):
    clock = Clock(monkeypatch)
    length = Length(300, epochs=12, deadline=15)
    clock.fit(length, step=[0.1])
    other = Length(300, epochs=12, deadline=1e9)
    other.restore(length.facts())
    assert [other.end_of(epoch) for epoch in (11, 12)] == [length.end_of(epoch) for epoch in (11, 12)]
    assert other.position(length.total) == length.position(length.total) == pytest.approx(300)


def test_a_fit_is_as_good_as_whole_once_its_rate_is_at_rest():
    length = Length(120, epochs=12)
    assert not length.rested(100)
    assert length.rested(109)
    assert schedule(109, 120) < 0.03
