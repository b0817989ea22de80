"""Who wins among finalists, and how sure that is: arithmetic on records."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tlsearch import registry
from tlsearch.contracts.combination import MEMBERS, STRUCTURE
from tlsearch.records import Artifact, Costs, TrialRecord, TrialRole, TrialState
from tlsearch.search.finalists import leaders, ranked

LOG_LOSS = registry.task("classification").metric("log_loss")

PLAIN = TrialRecord(
    study="s",
    number=0,
    state=TrialState.COMPLETE,
    reason="all 2 epochs",
    role=TrialRole.SEARCH,
    confirms=None,
    backbone="tiny/net",
    strategy="fine_tune",
    freeze_depth=None,
    groups=None,
    params={},
    value=0.9,
    metrics={"accuracy": 0.9, "log_loss": 0.3},
    costs=Costs(seconds=10.0, total_parameters=100),
    seed=0,
    attempt=1,
    cache="",
    node="",
    started=datetime.now(UTC),
    finished=None,
    artifact=None,
)


def trial(number: int, value: float, *, loss: float = 0.3, size: int = 100, trained: int = 1) -> TrialRecord:
    costs = Costs(total_parameters=size, trainable_parameters=trained)
    return replace(PLAIN, number=number, value=value, metrics={"log_loss": loss}, costs=costs)


def runs(of: TrialRecord, *values: float, loss: float = 0.3) -> list[TrialRecord]:
    return [
        replace(
            of,
            number=100 * (of.number + 1) + index,
            value=value,
            metrics={"log_loss": loss},
            role=TrialRole.CONFIRM,
            confirms=of.number,
        )
        for index, value in enumerate(values)
    ]


def test_a_finalists_own_best_of_many_does_not_count() -> None:
    lucky, steady = trial(0, 0.99), trial(1, 0.90)
    confirmed = [*runs(lucky, 0.85, 0.86), *runs(steady, 0.90, 0.91)]
    first, second = ranked([lucky, steady], confirmed, minimize=False, tie=LOG_LOSS)
    assert first.trial.number == 1
    assert first.values == (0.90, 0.91)
    assert second.mean == pytest.approx(0.855)


def test_ties_go_to_the_surer_model_then_to_the_smaller_one() -> None:
    one, two = trial(0, 0.9, size=100, trained=1), trial(1, 0.9, size=100, trained=99)
    confirmed = [*runs(one, 0.90, 0.91, loss=0.40), *runs(two, 0.90, 0.91, loss=0.30)]
    assert ranked([one, two], confirmed, minimize=False, tie=LOG_LOSS)[0].trial.number == 1
    large, small = trial(0, 0.9, size=900), trial(1, 0.9, size=100)
    confirmed = [*runs(large, 0.90, 0.91, loss=0.300), *runs(small, 0.90, 0.91, loss=0.305)]
    assert ranked([large, small], confirmed, minimize=False, tie=LOG_LOSS)[0].trial.number == 1


def test_what_few_items_cannot_tell_apart_is_told_apart_by_loss() -> None:
    """Three of a hundred items more are no proof; three of ten thousand in a hundred are."""
    lucky, steady = trial(0, 0.89, loss=0.9), trial(1, 0.86, loss=0.4)
    order = [one.trial.number for one in ranked([lucky, steady], [], minimize=False, items=100, tie=LOG_LOSS)]
    assert order == [1, 0]
    order = [
        one.trial.number for one in ranked([lucky, steady], [], minimize=False, items=10_000, tie=LOG_LOSS)
    ]
    assert order == [0, 1]


def test_finalists_are_of_several_strategies_and_one_is_fine_tuned() -> None:
    heads = [
        replace(trial(number, 0.9 - number / 100), strategy=name, freeze_depth=3, groups=3)
        for number, name in enumerate(["head2toe", "head2toe", "ranpac", "linear_probe"])
    ]
    tuned = [trial(10, 0.82), trial(11, 0.81)]
    assert [one.number for one in leaders([*heads, *tuned], many=3, tie=LOG_LOSS)] == [0, 2, 10]
    assert [one.number for one in leaders(heads, many=3, tie=LOG_LOSS)] == [0, 2, 3]
    assert [one.number for one in leaders(tuned, many=3, tie=LOG_LOSS)] == [10, 11]
    assert [one.number for one in leaders([*heads, *tuned], many=1, tie=LOG_LOSS)] == [0]
    assert [one.number for one in leaders(heads[:2] + tuned, many=3, tie=LOG_LOSS)] == [0, 1, 10]


def test_the_best_of_a_strategy_is_of_least_loss_where_a_right_answer_more_tells_nothing() -> None:
    first, second, third = trial(0, 0.978, loss=0.09), trial(1, 0.974, loss=0.07), trial(2, 0.95, loss=0.01)
    for items, best in ((269, 1), (100_000, 0), (0, 0)):
        (one,) = leaders([first, second, third], many=1, items=items, tie=LOG_LOSS)
        assert one.number == best
    kept = replace(first, artifact=Artifact("weights", "0" * 64, 1))
    (one,) = leaders([kept, second], many=1, items=269, tie=LOG_LOSS)
    assert one.number == 0, "weights that are gone can't win"


def test_of_ties_a_fine_tuned_network_comes_before_a_head() -> None:
    head = replace(trial(0, 0.86, loss=0.2), strategy="ranpac", freeze_depth=3, groups=3)
    tuned = replace(trial(1, 0.85, loss=0.5), freeze_depth=1, groups=3)
    worse = replace(trial(2, 0.85, loss=0.9), freeze_depth=1, groups=3)
    order = ranked([head, worse, tuned], [], minimize=False, items=100, tie=LOG_LOSS)
    assert [one.trial.number for one in order] == [1, 2, 0]
    order = ranked([head, tuned], [], minimize=False, items=100_000, tie=LOG_LOSS)
    assert [one.trial.number for one in order] == [0, 1], "but not where the difference is proved"


def test_a_single_run_that_leads_by_far_comes_before_repeated_ones() -> None:
    """Where time ends between the repetitions, the better model is not to be lost."""
    head, tuned = trial(0, 0.96), trial(1, 0.99)
    again = runs(head, 0.958, 0.959)
    for items, order in ((300, [1, 0]), (30, [0, 1])):
        found = ranked([tuned, head], again, minimize=False, items=items, tie=LOG_LOSS)
        assert [one.trial.number for one in found] == order


def test_equal_values_are_no_certainty() -> None:
    one = trial(0, 1.0)
    (first,) = ranked([one], runs(one, 1.0, 1.0, 1.0), minimize=False, items=20, tie=LOG_LOSS)
    assert first.spread == 0.0
    assert 0.03 < first.error < 0.06
    (first,) = ranked([one], runs(one, 0.9, 0.9), minimize=False, items=300, tie=LOG_LOSS)
    assert first.error == pytest.approx(math.sqrt(0.9 * 0.1 / 300), rel=0.02)
    (first,) = ranked([one], runs(one, 0.3, 0.3), minimize=True, items=300, tie=LOG_LOSS)
    assert first.error == 0.0, "a log-loss is no share of items"


def test_the_expected_score_of_the_best_of_several_is_not_too_good_on_average() -> None:
    """400 searches of equally good finalists: the winner's mean is too good, the expected one isn't."""
    rng = random.Random(0)
    means, expected = [], []
    for _ in range(400):
        finalists = [trial(number, 0.95) for number in range(3)]
        confirmed = [run for one in finalists for run in runs(one, *(rng.gauss(0.9, 0.02) for _ in range(3)))]
        first = max(ranked(finalists, confirmed, minimize=False, tie=LOG_LOSS), key=lambda one: one.mean)
        means.append(first.mean)
        expected.append(first.expected or 0.0)
    assert statistics.fmean(means) > 0.907
    assert abs(statistics.fmean(expected) - 0.9) < 0.004


def test_the_best_of_many_trials_counts_less_than_the_best_of_two() -> None:
    """At 100 items the best of 128 equal heads is six points too good; that of two fits one."""
    heads, tuned = replace(trial(0, 0.86, loss=0.5), strategy="head2toe"), trial(1, 0.84, loss=0.4)
    tried = {"head2toe": 128, "fine_tune": 2}
    first, second = ranked([heads, tuned], [], minimize=False, items=100, tried=tried, tie=LOG_LOSS)
    assert [first.trial.number, second.trial.number] == [1, 0]
    assert second.luck == pytest.approx(0.055, abs=0.01)
    assert first.luck == pytest.approx(0.012, abs=0.005)
    assert first.expected == pytest.approx(0.84 - first.luck)
    repeated = runs(heads, 0.86, 0.86)
    assert ranked([heads], repeated, minimize=False, items=100, tried=tried, tie=LOG_LOSS)[0].luck == 0.0


@pytest.mark.parametrize(("items", "too_good"), [(20, 0.093), (60, 0.061), (270, 0.025)])
def test_the_luck_of_thirty_equal_trials_is_what_was_measured(items: int, too_good: float) -> None:
    (one,) = ranked([trial(0, 0.9)], [], minimize=False, items=items, tried={"fine_tune": 30}, tie=LOG_LOSS)
    assert 0.6 * too_good < one.luck < 1.4 * too_good


def test_a_combination_that_lost_is_no_candidate() -> None:
    """A mean of weights is less sure of all that it says, so that its log-loss alone would have it win."""
    base = trial(0, 0.90, loss=0.5)
    made = {STRUCTURE: "fine_tune", MEMBERS: "0"}
    worse, even = (
        replace(trial(number, value, loss=0.1), strategy="wise_ft", params=made)
        for number, value in ((1, 0.88), (2, 0.90))
    )
    order = ranked([base], [], minimize=False, combined=[worse, even], items=100, tie=LOG_LOSS)
    assert [one.trial.number for one in order] == [2, 0]
    costly, cheap = (replace(one, value=1 - (one.value or 0.0)) for one in (worse, even))
    order = ranked([replace(base, value=0.1)], [], minimize=True, combined=[costly, cheap], tie=LOG_LOSS)
    assert [one.trial.number for one in order] == [2, 0]
