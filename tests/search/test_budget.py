from __future__ import annotations

import math
import time

import pytest

from tlsearch.search.budget import CONFIRM_SHARE, MOST_KEPT, PREPARATION_SHARE, STARTING, Budget, looking
from tlsearch.spec import BudgetSpec


def test_trials_are_counted_down_to_zero():
    budget = Budget(BudgetSpec(trials=5), started=3, spent=0)
    assert budget.trials_left == 2
    budget.started += 4
    assert budget.trials_left == 0


def test_without_minutes_there_is_no_end():
    budget = Budget(BudgetSpec(trials=5), started=0, spent=1e9)
    assert budget.seconds_left is None
    assert budget.deadline == budget.search_deadline == math.inf


def test_the_time_of_earlier_drivers_counts_and_the_time_between_does_not():
    budget = Budget(BudgetSpec(minutes=10.0), started=0, spent=240, opening=20, _since=1_000)
    assert budget.end == 1_000 + 600 - 240
    assert budget.deadline == budget.end - 20  # the minutes end with the verified model
    # A driver that starts an hour later has as much left.
    later = Budget(BudgetSpec(minutes=10.0), started=0, spent=240, opening=20, _since=4_600)
    assert later.deadline - 4_600 == budget.deadline - 1_000
    assert budget.search_deadline == budget.end - 20 - STARTING


def test_seconds_left_run_out():
    budget = Budget(BudgetSpec(minutes=1.0), started=0, spent=50)
    assert budget.seconds_left == pytest.approx(10, abs=1)
    over = Budget(BudgetSpec(minutes=1.0), started=0, spent=90)
    assert over.seconds_left is not None
    assert over.seconds_left < 0
    assert over.search_deadline == over.deadline == over.end


def test_minutes_begin_with_the_command_and_leave_time_to_try_something():
    minute = BudgetSpec(minutes=1.0)
    now = time.time()
    prompt = Budget.of_driver(minute, started=0, spent=0, began=now - 10)
    assert prompt.end == pytest.approx(now + 50, abs=1)
    slow = Budget.of_driver(minute, started=0, spent=0, began=now - 500)
    assert slow.end == pytest.approx(now + 60 * PREPARATION_SHARE, abs=1)
    assert Budget.of_driver(BudgetSpec(), started=0, spent=0, began=now - 500).end == math.inf


def test_what_comes_after_the_search_takes_half_of_the_time_at_most():
    budget = Budget(BudgetSpec(minutes=2.0), started=0, spent=0, after_search=math.inf, _since=1_000)
    assert budget.search_deadline == budget.end - MOST_KEPT * 120
    budget.after_search = 30.0
    assert budget.search_deadline == budget.end - 30
    budget.after_search = 0.0
    assert budget.search_deadline == budget.end - budget.verification - budget.opening


def test_repeating_the_finalists_takes_a_share_of_the_time_at_most():
    budget = Budget(BudgetSpec(minutes=10.0), started=0, spent=0)
    assert budget.most_confirming(30.0) == 30.0
    assert budget.most_confirming(3000.0) == CONFIRM_SHARE * 600
    assert Budget(BudgetSpec(), started=0, spent=0).most_confirming(3000.0) == 3000.0


def test_measuring_a_model_takes_longer_for_more_items_and_more_members():
    few, many, thrice = (looking(1e8, items=items) for items in (100, 1000, 3000))
    assert STARTING < few < many < thrice


def test_time_is_kept_for_a_refit_only_where_it_is_of_use():
    assert not Budget(BudgetSpec(minutes=1.0), started=0, spent=0).worth_keeping
    assert Budget(BudgetSpec(minutes=2.0), started=0, spent=0).worth_keeping
    assert not Budget(BudgetSpec(minutes=2.0), started=0, spent=0, opening=40.0).worth_keeping
    assert not Budget(BudgetSpec(), started=0, spent=0).worth_keeping


def test_a_study_that_is_given_more_minutes_searches_in_them():
    first = Budget(BudgetSpec(minutes=5.0), started=9, spent=300)
    assert first.search_deadline <= time.time()
    more = Budget(BudgetSpec(minutes=9.0), started=9, spent=300, after_search=math.inf)
    assert more.search_deadline == pytest.approx(time.time() + 120, abs=5)


def test_a_preparation_that_took_half_of_the_time_leaves_a_quarter_to_search():
    now = time.time()
    budget = Budget.of_driver(BudgetSpec(minutes=0.2), started=0, spent=0, began=now - 500)
    budget.after_search = math.inf
    assert budget.search_deadline == pytest.approx(now + 3, abs=1)
