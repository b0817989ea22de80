"""Masks: which class each pixel of a picture is of. They are read, understood, and coded as class indices."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tlsearch.contracts.target import TargetSpec
from tlsearch.counts import kind_of, plural
from tlsearch.errors import DataError
from tlsearch.images.decoding import FORMATS, MAX_PIXELS, NO_PICTURE, Unreadable, open_regular

UNKNOWN = 255
"""Code of pixels of which nothing is known; what masks themselves most often call so, too."""
MOST = 64
"""Different values in masks of classes; more are the soft edges of a drawing, or a photograph."""
HIGHEST = 65535
"""The largest value of a mask's pixel."""
HALF = 128
"""From here on a pixel with a soft edge counts as foreground."""
SOFT = 0.2
"""Share of pixels between black and white up to which masks are black and white with soft edges."""
ITS = "its mask "
"""What reasons begin with that pictures are set aside for."""
SIDES = (64, 96, 128, 160, 192, 224, 256)
"""Sides of the square that masks are coded at."""
_INDEXED = ("1", "L", "P", "I;16", "I")

Values = NDArray[np.int64]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class MaskWords:
    """What somebody says of masks; what is left out is found.

    Attributes:
        named: names of the classes by the pixels' values.
        ignore: values of pixels that are of no class.
        threshold: value from which on a grey pixel is foreground (255); the others are background (0).
        size: side of the square that masks are coded at.
    """

    named: Mapping[int, str] = field(default_factory=dict)
    ignore: tuple[int, ...] = ()
    threshold: int | None = None
    size: int | None = None


def read(source: object) -> Values:
    """A mask's values (H, W): indices of a palette, grey levels, or an array's own numbers.

    Raises:
        DataError: it is no mask; the message is a short reason.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "biu":
            raise DataError(
                f"is an array {source.shape} of {source.dtype}; masks are (H, W) of whole numbers"
            )
        return source.astype(np.int64)
    if not isinstance(source, str | Path):
        raise DataError(f"is {kind_of(source)}, no mask")
    try:
        with open_regular(Path(source)) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            image.load()
            if image.mode in _INDEXED:
                levels = np.asarray(image.convert("L") if image.mode == "1" else image)
                return levels.astype(np.int64)
            if image.mode == "F":
                return _whole(np.asarray(image))
            bands = np.asarray(image.convert("RGB"))
            if image.mode in ("LA", "RGB", "RGBA") and bool((bands == bands[..., :1]).all()):
                return bands[..., 0].astype(np.int64)
            raise DataError(
                f"has colours ({image.mode}); masks are grey levels, a palette or black and white: "
                "save them as PNG with the index of a class in each pixel"
            )
    except Unreadable as error:
        raise DataError(str(error)) from error
    except UnidentifiedImageError as error:
        raise DataError(NO_PICTURE[-1]) from error
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise DataError(f"can't be read as a mask ({error})") from error


def _whole(levels: NDArray[np.float32]) -> NDArray[np.int64]:
    if not bool((np.isfinite(levels) & (levels == np.round(levels))).all()):
        raise DataError("has fractions; masks hold the index of a class in each pixel")
    return levels.astype(np.int64)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown (turned by its EXIF), from its header alone.

    Raises:
        DataError: it can't be read.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except Unreadable as error:
        raise DataError(str(error)) from error
    except UnidentifiedImageError as error:
        raise DataError(NO_PICTURE[-1]) from error
    except (OSError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise DataError(f"can't be read ({error})") from error


@dataclass(frozen=True, slots=True)
class Understood:
    """What masks mean.

    Attributes:
        spec: names of the classes; facts: their ``values``, those to ``ignore``, ``threshold``, ``size``.
        broken: positions of masks that can't be used, and why.
        notes: sentences on what was found rather than said.
    """

    spec: TargetSpec
    broken: Mapping[int, str]
    notes: tuple[str, ...]


def understand(masks: Sequence[object], words: MaskWords) -> Understood:
    """Find out what the values of masks mean.

    Raises:
        DataError: they can't be classes, are all of one class, or a class that was named is in none.
    """
    counts: dict[int, int] = {}
    sides: list[int] = []
    broken: dict[int, str] = {}
    found: list[tuple[int, ...]] = []
    for position, one in enumerate(in_threads(_survey, masks)):
        if isinstance(one, str):
            broken[position] = one
            found.append(())
            continue
        values, side = one
        found.append(tuple(values))
        sides.append(side)
        for value, count in values.items():
            counts[value] = counts.get(value, 0) + count
    if not counts:
        first: dict[str, int] = {}
        for position, reason in broken.items():
            first.setdefault(reason, position)
        named = [_said_of(masks[at], reason) for reason, at in first.items()][:3]
        raise DataError(f"none of {plural(len(broken), 'mask')} can be used", hint="; ".join(named) or None)
    threshold, notes = words.threshold, []
    soft = _soft_edges(counts, words)
    if threshold is None and soft > 0:
        threshold = HALF
        notes.append(
            f"understood: masks are black and white with soft edges ({soft:.1%} of the pixels lie between): "
            f"from {HALF} on a pixel is foreground (data.threshold)"
        )
    if threshold is not None:
        whites = sum(count for value, count in counts.items() if value >= threshold)
        split = {0: sum(counts.values()) - whites, UNKNOWN: whites}
        counts = {value: count for value, count in split.items() if count > 0}
    names, ignore, more = _classes(counts, words, thresholded=threshold is not None)
    notes += more
    if threshold is None:
        allowed = {*names, *ignore}
        for position, own in enumerate(found):
            if strange := sorted(set(own) - allowed):
                broken[position] = (
                    f"{ITS}holds {_listed(strange)}, which no class has: classes are {_listed(list(names))}"
                )
    spec = TargetSpec(
        tuple(names.values()),
        {
            "values": list(names),
            "ignore": list(ignore),
            "threshold": threshold,
            "size": words.size or _side(sides),
        },
    )
    return Understood(spec, broken, tuple(notes))


def code(mask: object, spec: TargetSpec) -> NDArray[np.uint8]:
    """A mask as class indices (S, S), `UNKNOWN` where it is of no class; squeezed to a square.

    Args:
        mask: what `read` takes, or what `text` gave.
        spec: what its values mean.

    Raises:
        DataError: it is no mask, or holds values that mean nothing.
    """
    size, values = int(spec.facts["size"]), list(spec.facts["values"])
    packed = isinstance(mask, str) and mask.startswith(_PACKED)
    levels = _unpacked(str(mask)) if packed else read(mask)
    threshold = spec.facts["threshold"]
    if threshold is not None and not packed:
        levels = np.where(levels >= threshold, UNKNOWN, 0)
    coded: NDArray[np.uint8] = np.full_like(levels, UNKNOWN, np.uint8)
    known = np.isin(levels, [*spec.facts["ignore"], *([-1] if packed else [])])
    for index, value in enumerate(values):
        same = levels == value
        coded[same] = index
        known |= same
    if not known.all():
        strange = sorted(set(np.unique(levels[~known]).tolist()))
        raise DataError(
            f"a mask holds {_listed(strange)}, which no class has: classes are {_listed(values)}",
            hint="Name the values that are of no class in `ignore`.",
        )
    if coded.shape == (size, size):
        return coded
    return np.asarray(Image.fromarray(coded).resize((size, size), Image.Resampling.NEAREST))


def stacked(coded: Sequence[NDArray[np.uint8]], spec: TargetSpec) -> NDArray[np.uint8]:
    """Masks (N, S, S), also of none."""
    side = int(spec.facts["size"])
    return np.stack(coded) if coded else np.zeros((0, side, side), np.uint8)


def text(coded: NDArray[np.uint8], spec: TargetSpec) -> str:
    """Class indices (S, S) as a text that `code` takes: it holds the masks' own values."""
    values = ",".join(map(str, spec.facts["values"]))
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(coded).tobytes(), 1)).decode()
    return f"{_PACKED}{coded.shape[0]}x{coded.shape[1]}:{values}:{packed}"


_PACKED = "mask:"


def _unpacked(packed: str) -> Values:
    _, shape, values, content = packed.split(":", 3)
    height, width = map(int, shape.split("x"))
    coded = np.frombuffer(zlib.decompress(base64.b64decode(content)), np.uint8)
    table = np.full(256, -1, np.int64)
    known = [int(value) for value in values.split(",")]
    table[: len(known)] = known
    return table[coded].reshape(height, width)


def in_threads(work: Callable[[Any], Result], things: Sequence[Any]) -> list[Result]:
    """Results in order; files are read and decoded on all cores."""
    with ThreadPoolExecutor(max(1, min(8, len(os.sched_getaffinity(0))))) as threads:
        return list(threads.map(work, things))


def _said_of(mask: object, reason: str) -> str:
    return f"{mask}: {reason.removeprefix(ITS)}" if isinstance(mask, Path) else reason


def _survey(mask: object) -> tuple[dict[int, int], int] | str:
    try:
        levels = read(mask)
    except DataError as error:
        return f"{ITS}{error.message}"
    if levels.size == 0 or levels.min() < 0 or levels.max() > HIGHEST:
        return f"{ITS}holds values outside 0 to {HIGHEST}, or none"
    counts = np.bincount(levels.ravel())
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}, max(levels.shape)


def _soft_edges(counts: Mapping[int, int], words: MaskWords) -> float:
    """The share of pixels between black and white, if that is what masks consist of; else 0."""
    between = sum(count for value, count in counts.items() if 0 < value < UNKNOWN) / sum(counts.values())
    found = set(counts)
    # Where JPEG blurs edges, values right beside black and white occur; classes have no value so high.
    blurred = len(found) > MOST or not (found.isdisjoint((1, 2)) or found.isdisjoint((253, 254)))
    drawn = blurred and {0, UNKNOWN} <= found and max(counts) == UNKNOWN
    said = not words.named or set(words.named) == {0, UNKNOWN}
    return between if drawn and said and between <= SOFT else 0.0


def _classes(
    counts: Mapping[int, int], words: MaskWords, *, thresholded: bool
) -> tuple[dict[int, str], tuple[int, ...], list[str]]:
    """Names by value, values to ignore, and what is to be told."""
    ignore, notes = words.ignore, list[str]()
    if not words.named and len(counts) > MOST:
        raise DataError(
            f"masks hold {len(counts)} different values, from {min(counts)} to {max(counts)}: too many for "
            "classes",
            hint="Give `classes: {0: background, 1: ...}`, or `threshold: 128` for drawings with soft edges. "
            "JPEG spoils masks: save them as PNG.",
        )
    binary = set(counts) <= {0, UNKNOWN}
    implied = not ignore and not thresholded and not binary and UNKNOWN not in words.named
    if implied and UNKNOWN in counts:
        ignore = (UNKNOWN,)
        notes.append(f"understood: pixels of {UNKNOWN} in the masks are of no class (data.ignore)")
    present = sorted(set(counts) - set(ignore))
    if words.named:
        names = dict(words.named)
        if absent := [value for value in names if value not in present]:
            raise DataError(
                f'no mask has a pixel of class "{names[absent[0]]}" ({absent[0]})',
                hint=f"Masks hold {_listed(present)}. Leave classes out that have none.",
            )
    elif binary:
        names = {value: "foreground" if value else "background" for value in present}
    else:
        names = {value: "background" if value == 0 else f"class {value}" for value in present}
    if len(names) < 2:
        raise DataError(
            f"all masks are of one class alone: {_listed(present)}",
            hint="Are these the masks, and do some show what is to be found?",
        )
    if len(names) >= UNKNOWN:
        raise DataError(f"masks have {len(names)} classes; up to {UNKNOWN - 1} are possible")
    return names, ignore, notes


def _side(sides: Sequence[int]) -> int:
    """The largest usual side that half of the masks fill."""
    middle = sorted(sides)[len(sides) // 2]
    return max((side for side in SIDES if side <= middle), default=max(8, middle))


def _listed(values: Sequence[int]) -> str:
    more = ", ..." if len(values) > 8 else ""
    return f"value{'s' if len(values) > 1 else ''} {', '.join(map(str, values[:8]))}{more}"
