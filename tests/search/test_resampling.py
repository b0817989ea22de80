"""Intervals of scores, by drawing items or groups of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tlsearch.search.resampling import bounds


def _mean_of(values: NDArray[np.float64]) -> dict[str, float]:
    return {"mean": float(values.mean())}


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        values = generator.normal(3.0, 1.0, size=60)
        found = bounds(lambda drawn, values=values: _mean_of(values[drawn]), len(values), resamples=200)
        held += found["mean_low"] <= 3.0 <= found["mean_high"]
    assert 88 <= held <= 99


def test_items_of_one_group_are_drawn_together() -> None:
    """Ten photographs of one plant tell hardly more than one."""
    generator = np.random.default_rng(2)
    of_group = generator.normal(size=30)
    values = np.repeat(of_group, 10)
    groups = [f"plant {number}" for number in np.repeat(np.arange(30), 10)]

    def score(drawn: NDArray[np.int64]) -> dict[str, float]:
        return _mean_of(values[drawn])

    def width(found: dict[str, float]) -> float:
        return found["mean_high"] - found["mean_low"]

    single, whole = bounds(score, len(values)), bounds(score, len(values), groups)
    assert width(whole) > 2.2 * width(single)  # the square root of ten is 3.2
    assert width(whole) == pytest.approx(2 * 1.96 * of_group.std() / 30**0.5, rel=0.25)


def test_items_without_a_group_stand_for_themselves() -> None:
    values = np.arange(40.0)
    drawn_alone = bounds(lambda drawn: _mean_of(values[drawn]), 40)
    assert bounds(lambda drawn: _mean_of(values[drawn]), 40, [""] * 40) == drawn_alone


@pytest.mark.parametrize("groups", [None, ["one"] * 20 + ["two"] * 20])
def test_too_little_to_draw_from_says_nothing(groups: list[str] | None) -> None:
    values = np.arange(9.0 if groups is None else 40.0)
    assert bounds(lambda drawn: _mean_of(values[drawn]), len(values), groups) == {}


def test_scores_that_most_sets_leave_open_have_no_interval() -> None:
    """Such as a rank correlation of a set in which all values are equal."""

    def score(drawn: NDArray[np.int64]) -> dict[str, float]:
        return {"never": float("nan"), "always": float(drawn.mean())}

    assert set(bounds(score, 30)) == {"always_low", "always_high"}
