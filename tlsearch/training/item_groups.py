"""Items that must not stand in two splits, as they belong together: of one folder, scene or patient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from tlsearch.contracts import Samples
from tlsearch.counts import plural
from tlsearch.errors import DataError, SpecError
from tlsearch.names import printable

FOLDER, EXIF = "folder", "exif"
GAP_SECONDS = 10.0
"""Pictures of one camera that were taken within so many seconds of each other are of one series."""
LONGEST = 200
"""Characters of an expression."""
SERIES = r"([^/]*\d[^/]*?)[-_ .]+[a-zA-Z]*\d+\.\w+$"
"""Names such as plant07_2.jpg: of a series, with a number in it, and the picture's own number."""
LEAST_GROUPS = 6
"""Series of each class from which on names are taken to tell of series: all splits need some."""
_RIGHT = (
    "`folder`: items of one folder; `exif`: pictures of one camera, taken within seconds; or an expression "
    "whose first group (in parentheses) is what names of one series have in common, such as '(plant\\d+)_'."
)
_MAKE, _MODEL, _SERIAL, _TAKEN, _DETAILS = 0x010F, 0x0110, 0xA431, 0x9003, 0x8769


def grouped(samples: Samples, how: str, *, section: str = "data") -> Samples:
    """Samples with the groups that ``data.groups`` asks for.

    Args:
        samples: as listed.
        how: ``folder``, ``exif``, or a regular expression for names of items.
        section: of the study file, for errors.

    Raises:
        SpecError: an expression that can't be, or the data has groups of its own.
        DataError: no item belongs to a group, or all belong to one.
    """
    key = f"{section}.groups"
    if samples.groups is not None:
        raise SpecError(f"{key}: the data has groups of its own.", hint=f"Leave {key} out, or the column.")
    if how == FOLDER:
        groups = [PurePosixPath(name).parent.as_posix() for name in samples.names]
    elif how == EXIF:
        groups = _bursts(samples.items)
    else:
        groups = _matched(samples.names, how, key)
    sizes = Counter(group for group in groups if group)
    if len(sizes) < 2:
        told = "no item belongs to a group" if not sizes else "all items belong to one group"
        raise DataError(f"{key}: {told} by {printable(how)}", hint=f"Right is {_RIGHT}")
    alone = groups.count("")
    note = (
        f"{plural(len(groups) - alone, 'item')} in {plural(len(sizes), 'group')} that no split cuts in two"
        f", the largest of {max(sizes.values())}"
        + (f"; {plural(alone, 'item belongs', 'items belong')} to none" if alone else "")
    )
    return replace(samples, groups=groups, notes=(*samples.notes, note))


def _matched(names: Sequence[str], expression: str, key: str) -> list[str]:
    if len(expression) > LONGEST:
        raise SpecError(f"{key}: an expression has at most {LONGEST} characters.", hint=f"Right is {_RIGHT}")
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise SpecError(
            f'{key}: "{printable(expression)}" is no regular expression: {error}.', hint=f"Right is {_RIGHT}"
        ) from None
    if pattern.groups < 1:
        raise SpecError(
            f'{key}: "{printable(expression)}" has no group in parentheses, which names a series.',
            hint=f"Right is {_RIGHT}",
        )
    found = (pattern.search(name) for name in names)
    return [(match.group(1) or "") if match is not None else "" for match in found]


def _bursts(items: Sequence[Any]) -> list[str]:
    """A name of the series that each picture belongs to; empty where nothing is known of it."""
    by_camera: dict[str, list[tuple[float, int]]] = {}
    for position, item in enumerate(items):
        if isinstance(item, str | Path) and (found := taken(item)) is not None:
            camera, seconds = found
            by_camera.setdefault(camera, []).append((seconds, position))
    groups = [""] * len(items)
    for camera, moments in by_camera.items():
        last, number = -GAP_SECONDS, 0
        for seconds, position in sorted(moments):
            number += seconds - last > GAP_SECONDS
            groups[position] = f"{camera} {number}"
            last = seconds
    return groups


def taken(path: str | Path) -> tuple[str, float] | None:
    """The camera and the second in which a picture was taken, by its own words; None where it has none."""
    from PIL import Image, UnidentifiedImageError

    from tlsearch.images.decoding import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as image:
            exif = image.getexif()
            details = exif.get_ifd(_DETAILS)
            moment = datetime.strptime(str(details[_TAKEN]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except (KeyError, OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        return None  # it has none; the run sets broken ones aside and names them
    words = [str(exif.get(_MAKE, "")), str(exif.get(_MODEL, "")), str(details.get(_SERIAL, ""))]
    return " ".join(words).strip(), moment.replace(tzinfo=UTC).timestamp()


def suggested(samples: Samples, kinds: Sequence[tuple[int, ...]]) -> tuple[str, str] | None:
    """What ``data.groups`` should be by names of items or by when they were taken, and why; or None.

    Args:
        samples: as listed.
        kinds: that each item is of, such as classes: of each, series must be left for every split.
    """
    if samples.groups is not None or (samples.splits is not None and samples.times is None):
        return None
    if found := _series(_matched(samples.names, SERIES, ""), kinds):
        return SERIES, f'names tell of {found[1]} series ("{printable(found[0])}"): no split cuts one in two'
    if found := _series(_bursts(samples.items), kinds):
        return EXIF, f"cameras took them in {found[1]} series: no split cuts one in two"
    return None


def _series(groups: Sequence[str], kinds: Sequence[tuple[int, ...]]) -> tuple[str, int] | None:
    """The largest of the groups, and how many there are; None where they can't well be series."""
    sizes = Counter(group for group in groups if group)
    inside = sum(size for size in sizes.values() if size > 1)
    if not sizes or inside < len(groups) / 2:
        return None
    of_kind: dict[int, set[str]] = {}
    for position, group in enumerate(groups):
        for kind in kinds[position]:
            of_kind.setdefault(kind, set()).add(group or f"\0{position}")
    if min(map(len, of_kind.values())) < LEAST_GROUPS:
        return None
    return sizes.most_common(1)[0][0], len(sizes)
