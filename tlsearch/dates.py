"""Dates and times as tables write them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

_NUMBERS = re.compile(
    r"(?P<one>\d{1,2})(?P<mark>[/.-])(?P<two>\d{1,2})(?P=mark)(?P<year>\d{4})(?P<rest>\D.*)?$"
)
"""A date that begins with its day or its month, and may go on with a time."""
_EXIF_DAY = re.compile(r"^(\d{4}):(\d\d):(\d\d)(?=$| )")
_WORDS = re.compile(r"(?i)(?=.*\d{4}).*\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b")
"""A date with the month as a word, and a year."""
_SINCE_1970 = 1e8
"""Seconds since 1970 from which on a number is no year and no date such as 20240531: from 1973 on."""


def moments(cells: Sequence[str]) -> list[float | None]:
    """Seconds since 1970 for each cell that is a date or a time; None for others.

    Read are dates as ISO 8601 and EXIF write them, with the month as a word, with numbers of which the first
    or the second is found to be the month, and seconds or milliseconds since 1970. Times without a zone count
    as UTC.
    """
    import pandas

    parts = [_NUMBERS.match(cell) for cell in cells]
    days = _day_is(parts)
    texts = [_iso(cell, part, days) for cell, part in zip(cells, parts, strict=True)]
    written = pandas.Series(texts, dtype=object)
    numbers = pandas.to_numeric(written, errors="coerce")
    if len(numbers) and (numbers >= _SINCE_1970).all():
        return [float(number / 1000 if number >= 1000 * _SINCE_1970 else number) for number in numbers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pandas.to_datetime(written, errors="coerce", format="ISO8601", utc=True)
        words = found.isna() & written.str.match(_WORDS)
        if words.any():
            found[words] = pandas.to_datetime(written[words], errors="coerce", format="mixed", utc=True)
    return [None if pandas.isna(moment) else float(moment.timestamp()) for moment in found]


def _day_is(parts: Sequence[re.Match[str] | None]) -> str:
    """Which of the first two numbers of dates is the day; empty where nothing tells."""
    found = [part for part in parts if part]
    for one, other in (("one", "two"), ("two", "one")):
        if any(int(part[one]) > 12 for part in found) and all(int(part[other]) <= 12 for part in found):
            return one
    # Who puts dots between them puts the day first.
    return "one" if found and all(part["mark"] == "." for part in found) else ""


def _iso(cell: str, part: re.Match[str] | None, day: str) -> str:
    """A cell as ISO 8601 where it was numbers in another order; empty where that isn't known."""
    if part is None:
        return _EXIF_DAY.sub(r"\1-\2-\3", cell)
    if not day:
        return ""
    month = "two" if day == "one" else "one"
    return f"{part['year']}-{part[month]:0>2}-{part[day]:0>2}{part['rest'] or ''}"
