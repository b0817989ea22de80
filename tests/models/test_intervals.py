from __future__ import annotations

import pytest

from tlsearch.models.intervals import over_seeds, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Agresti and Coull 1998
        (10, 10, 0.7225, 1.0),
        (90, 100, 0.8256, 0.9448),  # 0.826 to 0.945 as Newcombe 1998 writes it
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_intervals_of_shares_are_wilsons(right, count, low, high):
    found = wilson(right, count)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_intervals_of_means_are_students():
    found = over_seeds([1.0, 2.0, 3.0])
    assert (round(found.low, 3), round(found.high, 3)) == (-0.484, 4.484)
    assert over_seeds([1.0]) is None
