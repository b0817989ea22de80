"""Pictures that stand in two splits in nearly the same form: saved again, resized, brightened, trimmed.

Two steps. A fingerprint of each picture, the lowest frequencies of its grey values (as perceptual hashes have
them, kept as numbers instead of bits), finds the nearest picture of another split by one matrix product. Then
the two are compared by their colours. How close is too close depends on the data: digits and garments on a
plain ground all look alike, photographs don't. So a pair counts where it is nearer than a fraction of the
usual distance between a picture and its nearest, or hardly to be told apart at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.training.splits import IntArray

Array = NDArray[np.float32]

SIDE = 32
"""Pixels on a side at which two pictures are compared."""
FREQUENCIES = 8
"""Lowest frequencies on a side that make a fingerprint, the mean left out."""
SHARE = 0.25
"""Of the usual distance to the nearest picture: what is nearer is nearly the same."""
CERTAIN = 0.03
"""What is nearer is nearly the same in any data; 1 is a change as large as a picture's contrast."""
PLAIN = 2.0
"""Standard deviation of grey values, of 255, below which a picture shows nothing."""
USUAL_FROM = 1000
"""Pictures that the usual distance is taken from."""
MAX_HELD_OUT = 50_000
"""Pictures of val and of test each that are looked up; of more, as many at equal distances."""
_CHUNK = 256
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture of ``val`` or ``test`` and its like in another split, by their indices in the data."""

    index: int
    split: str
    other: int
    other_split: str
    distance: float


@dataclass(frozen=True, slots=True)
class Alike:
    """What was found.

    Attributes:
        pairs: the nearest first; each held-out picture at most once for each split that it is compared with.
        plain: indices of pictures that show nothing, which are compared with none.
        limit: distance below which a pair counted.
        compared: held-out pictures that were looked up.
    """

    pairs: tuple[Pair, ...]
    plain: tuple[int, ...]
    limit: float
    compared: int


def find(array: NDArray[Any], indices: Mapping[str, IntArray], *, threads: int = 2) -> Alike:
    """Pictures of val that stand in train too, and pictures of test that stand in train or val.

    Args:
        array: uint8 or uint16 (N, channels, height, width).
        indices: of ``train``, ``stop``, ``val`` and ``test``.
        threads: for the fingerprints.
    """
    train = np.concatenate([indices["train"], indices["stop"]])
    val, test = _some(indices["val"]), _some(indices["test"])
    prints, contrast = _fingerprints(array, np.concatenate([train, val, test]), threads=threads)
    bounds = np.cumsum([len(train), len(val), len(test)])
    parts = {
        name: _Part(name, rows, prints[end - len(rows) : end], contrast[end - len(rows) : end])
        for (name, rows), end in zip(
            (("train", train), ("val", val), ("test", test)), bounds.tolist(), strict=True
        )
    }
    nearest = [
        _nearest(parts[one], parts[other])
        for one, other in (("val", "train"), ("test", "train"), ("test", "val"))
    ]
    limit = max(CERTAIN, SHARE * _usual(array, nearest[:2]))
    pairs = [pair for found in nearest for pair in _verified(array, found, limit)]
    plain = np.concatenate([part.rows[part.contrast < PLAIN] for part in parts.values()])
    return Alike(
        pairs=tuple(sorted(pairs, key=lambda pair: (pair.distance, pair.index))),
        plain=tuple(sorted(plain.tolist())),
        limit=limit,
        compared=len(val) + len(test),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    rows: IntArray
    prints: Array
    contrast: Array


@dataclass(frozen=True, slots=True)
class _Nearest:
    """For pictures of one split, the nearest in another by fingerprint, and how far that is."""

    split: str
    rows: IntArray
    other_split: str
    others: IntArray
    distance: Array


def _some(rows: IntArray) -> IntArray:
    if len(rows) <= MAX_HELD_OUT:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MAX_HELD_OUT).astype(np.int64)]


def _fingerprints(array: NDArray[Any], rows: IntArray, *, threads: int) -> tuple[Array, Array]:
    """Unit vectors (rows, frequencies), and the contrast of each picture."""
    from concurrent.futures import ThreadPoolExecutor

    prints = np.zeros((len(rows), FREQUENCIES**2 - 1), dtype=np.float32)
    contrast = np.zeros(len(rows), dtype=np.float32)
    waves, channels = _waves(), array.shape[1]
    weights = _GREY if channels == len(_GREY) else np.full(channels, 1 / channels, np.float32)

    def fill(start: int) -> None:
        place = slice(start, start + _CHUNK)
        grey = np.tensordot(_small(array, rows[place]), weights, axes=([1], [0]))
        spectrum = (waves @ grey @ waves.T).reshape(len(grey), -1)[:, 1:]
        length = np.linalg.norm(spectrum, axis=1)
        contrast[place] = grey.std(axis=(1, 2))
        prints[place] = spectrum / np.maximum(length, 1e-6)[:, None]

    with ThreadPoolExecutor(max(1, threads)) as executor:
        list(executor.map(fill, range(0, len(rows), _CHUNK)))
    return prints, contrast


def _nearest(part: _Part, other: _Part) -> _Nearest:
    usable, others = part.contrast >= PLAIN, other.contrast >= PLAIN
    rows, candidates = part.rows[usable], other.rows[others]
    if not len(rows) or not len(candidates):
        nothing = np.zeros(0, dtype=np.int64)
        return _Nearest(part.name, nothing, other.name, nothing, np.zeros(0, np.float32))
    table = np.ascontiguousarray(other.prints[others].T)
    best = np.zeros(len(rows), dtype=np.int64)
    cosine = np.zeros(len(rows), dtype=np.float32)
    prints = part.prints[usable]
    step = max(1, 2**24 // table.shape[1])  # 64 MB of cosines at a time
    for start in range(0, len(rows), step):
        similar = prints[start : start + step] @ table
        best[start : start + step] = similar.argmax(axis=1)
        cosine[start : start + step] = similar.max(axis=1)
    distance = np.sqrt(np.maximum(0, 2 - 2 * cosine)).astype(np.float32)
    return _Nearest(part.name, rows, other.name, candidates[best], distance)


def _usual(array: NDArray[Any], nearest: Sequence[_Nearest]) -> float:
    """Median distance of a picture to its nearest."""
    rows = np.concatenate([found.rows for found in nearest])
    others = np.concatenate([found.others for found in nearest])
    if not len(rows):
        return 0.0
    taken = np.unique(np.linspace(0, len(rows) - 1, USUAL_FROM).astype(np.int64))
    return float(np.median(_distances(array, rows[taken], others[taken])))


def _verified(array: NDArray[Any], found: _Nearest, limit: float) -> list[Pair]:
    # A fingerprint has but the coarse of a picture, where changes weigh less or more than in the whole.
    near = found.distance <= 2 * limit
    rows, others = found.rows[near], found.others[near]
    distances = _distances(array, rows, others)
    return [
        Pair(index, found.split, other, found.other_split, distance)
        for index, other, distance in zip(rows.tolist(), others.tolist(), distances.tolist(), strict=True)
        if distance <= limit
    ]


def _distances(array: NDArray[Any], rows: IntArray, others: IntArray) -> Array:
    """Root mean square difference in colour, after brightness and contrast were made equal."""
    parts = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(rows), _CHUNK):
        one, other = (
            _normal(_small(array, some[start : start + _CHUNK]).reshape(-1, array.shape[1] * SIDE**2))
            for some in (rows, others)
        )
        parts.append(np.sqrt(((one - other) ** 2).sum(axis=1)).astype(np.float32))
    return np.concatenate(parts)


def _normal(pixels: Array) -> Array:
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6))


def _small(array: NDArray[Any], rows: IntArray) -> Array:
    """Pictures as float32 (rows, channels, SIDE, SIDE) from 0 to 255, averaged over areas."""
    height, width = array.shape[2:]
    # Of large pictures, every second or third pixel tells enough: they were smoothed when they were resized.
    down, right = max(1, height // (3 * SIDE)), max(1, width // (3 * SIDE))
    pixels = array[rows][:, :, ::down, ::right].astype(np.float32)
    if array.dtype == np.uint16:
        pixels /= 257
    return np.asarray(_areas(pixels.shape[2]) @ pixels @ _areas(pixels.shape[3]).T)


def _areas(size: int) -> Array:
    """(SIDE, size): means over equal stretches of ``size`` pixels."""
    edges = np.linspace(0, size, SIDE + 1)
    starts, pixels = edges[:-1, None], np.arange(size)[None, :]
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(starts, pixels)
    covered = np.maximum(overlap, 0)
    return np.asarray(covered / covered.sum(axis=1, keepdims=True), dtype=np.float32)


def _waves() -> Array:
    """(FREQUENCIES, SIDE): the lowest rows of the discrete cosine transform."""
    order = np.arange(FREQUENCIES)[:, None]
    waves = np.cos(np.pi * order * (2 * np.arange(SIDE) + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, dtype=np.float32)
