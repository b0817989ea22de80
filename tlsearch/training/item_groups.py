"""Items that must not stand in two splits, as they belong together: of one folder, scene or patient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
"""Series of each class from which on they are proposed: all splits need some."""
LEAST_SERIES = 10
"""Series in all from which on they are proposed: fewer leave a split one or two."""
LARGEST = 0.15
"""Share of all items that the largest series may have: that of a split."""
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


@dataclass(frozen=True, slots=True)
class Series:
    """What names or cameras tell of series.

    Attributes:
        how: what ``data.groups`` is for them.
        told: what was seen.
        doubt: why it isn't proposed; empty where it is.
    """

    how: str
    told: str
    doubt: str = ""


def suggested(samples: Samples, kinds: Sequence[tuple[int, ...]]) -> Series | None:
    """What ``data.groups`` should be by names of items or by when they were taken; None without any series.

    Series are doubted that splits can't well be made of: of too few of them, or too large ones, a split gets
    none, or far from its share.

    Args:
        samples: as listed.
        kinds: that each item is of, such as classes: of each, series must be left for every split.
    """
    if samples.groups is not None or (samples.splits is not None and samples.times is None):
        return None
    found = [
        Series(how, told.format(count=plural(len(sizes), "series", "series")), _doubt(sizes, groups, kinds))
        for how, told, groups in (
            (SERIES, "names tell of {count}", _matched(samples.names, SERIES, "")),
            (EXIF, "cameras took them in {count}", _bursts(samples.items)),
        )
        if (sizes := _series(groups, kinds))
    ]
    return next((one for one in found if not one.doubt), found[0] if found else None)


def _series(groups: Sequence[str], kinds: Sequence[tuple[int, ...]]) -> Counter[str]:
    """Items of each group; empty where half of all stand alone, or some kind of items has no two groups."""
    sizes = Counter(group for group in groups if group)
    inside = sum(size for size in sizes.values() if size > 1)
    apart = min(map(len, _of_kinds(groups, kinds).values()), default=0)
    return sizes if inside >= len(groups) / 2 and apart > 1 else Counter()


def _doubt(sizes: Counter[str], groups: Sequence[str], kinds: Sequence[tuple[int, ...]]) -> str:
    """Why splits can't well be made of such groups; empty where they can."""
    (name, largest), items = sizes.most_common(1)[0], len(groups)
    if len(sizes) < LEAST_SERIES:
        return f'too few to make splits of, such as the {largest:,} items of "{printable(name)}"'
    if largest > LARGEST * items:
        return f'and "{printable(name)}" has {largest:,} of {items:,} items, more than a split is to have'
    if min(map(len, _of_kinds(groups, kinds).values())) < LEAST_GROUPS:
        return f'such as "{printable(name)}", of some kind fewer than {LEAST_GROUPS}: too few for every split'
    return ""


def _of_kinds(groups: Sequence[str], kinds: Sequence[tuple[int, ...]]) -> dict[int, set[str]]:
    """The groups that each kind of items stands in; an item of no group is one of its own."""
    found: dict[int, set[str]] = {}
    for position, group in enumerate(groups):
        for kind in kinds[position]:
            found.setdefault(kind, set()).add(group or f"\0{position}")
    return found
