"""Values as a report writes them."""

from __future__ import annotations

import numpy as np
import pytest

from tlsearch.reports import formatting
from tlsearch.tasks.regression import Regression


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        (25.0, "25"),
        (21.000001, "21"),
        (0.0, "0"),
        (2.5, "2.5"),
        (1e-7, "1e-07"),
        (1234567.0, "1234567"),
        ([25.0, 2.5], "25, 2.5"),
        (["Platelets", "WBC"], "Platelets, WBC"),
        ([], "no label"),
        ("12", "12"),
    ],
)
def test_targets_are_written_as_people_do(plain, told):
    assert formatting.target(plain) == told


def test_whole_numbers_are_still_whole_after_they_were_standardized():
    task, counts = Regression(), list(range(28))
    spec = task.describe(counts)
    told = [formatting.target(task.plain(row, spec)) for row in task.encode(np.array(counts), spec)]
    assert told == [str(count) for count in counts]


def test_a_measure_has_one_notation():
    assert formatting.interval("map", 0.785, 0.9461) == "0.7850 to 0.9461"
    assert formatting.interval("accuracy", 0.785, 0.9461) == "78.5 to 94.6%"
