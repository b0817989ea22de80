"""Dates as people write them in tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tlsearch.dates import moments


def seconds(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2024-03-05", "2024-05-31"], seconds(2024, 3, 5)),
        (["2024-03-05 14:30", "2024-03-06T01:02:03"], seconds(2024, 3, 5, 14, 30)),
        (["2024-03-05T14:30:00+02:00"], seconds(2024, 3, 5, 12, 30)),
        (["2024:03:05 14:30:00"], seconds(2024, 3, 5, 14, 30)),
        (["20240305", "20241231"], seconds(2024, 3, 5)),
        (["2019", "2020"], seconds(2019, 1, 1)),
        (["05/03/2024", "31/03/2024"], seconds(2024, 3, 5)),
        (["03/05/2024 14:30", "03/31/2024 08:00"], seconds(2024, 3, 5, 14, 30)),
        (["5.3.2024", "6.4.2024"], seconds(2024, 3, 5)),
        (["5 March 2024", "Mar 6, 2024"], seconds(2024, 3, 5)),
        (["1709649000", "1709649001"], 1709649000.0),
        (["1709649000500"], 1709649000.5),
    ],
)
def test_dates_are_read_as_they_are_written(cells: list[str], first: float) -> None:
    found = moments(cells)
    assert found[0] == first
    assert None not in found
    assert found == sorted(found)


@pytest.mark.parametrize(
    "cell", ["", "yesterday", "7", "tree 12", "2024-13-01", "31/02/2024", "maybe", "may", "may 7", "nan"]
)
def test_what_is_no_date_is_none(cell: str) -> None:
    assert moments(["2024-01-01", cell, "2024-01-03"])[1] is None


def test_days_and_months_that_nothing_tells_apart_are_none() -> None:
    assert moments(["03/04/2024", "05/06/2024"]) == [None, None]
    assert moments(["13/04/2024", "04/13/2024"]) == [None, None]


def test_nothing_is_nothing() -> None:
    assert moments([]) == []
