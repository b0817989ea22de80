"""What people pass in Python, one item or many of almost any type, as a list of named items."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.counts import kind_of, plural
from tlsearch.errors import DataError
from tlsearch.images.decoding import Unreadable, as_rgb, is_deep, open_regular, upright
from tlsearch.urls import public

_CHANNELS = (1, 3, 4)
NARROWEST = 8
"""Pixels that a grey image of an array (N, H, W) is wide at least; fewer are channels of some other kind."""
_RIGHT = (
    "Right are paths, bytes, open files, PIL images or arrays of pixels, one or many: (H, W, C), (N, H, W),"
    " (N, H, W, C), or a list of (H, W) and (H, W, C)."
)
MOST_CHANNELS = 512
"""Of an array whose channels aren't 1, 3 or 4: the shorter of its first and last axis."""


@dataclass(frozen=True, slots=True)
class Items:
    """Items in the order in which they were given.

    Attributes:
        values: what an `InputSpec` encodes: paths, arrays, bytes; texts where the modality is text.
        names: how to call each: a path by itself, another item by its number.
    """

    values: list[Any]
    names: list[str]


def items_of(given: Any, *, modality: str = "image") -> Items:
    """One item or many, by position and in order.

    Strings are paths where the modality is image. A pandas Series or Index is taken by position, a DataFrame
    if it has one column. An array of 3 dimensions with 1, 3 or 4 channels at its end is one image; one of 3
    or 4 dimensions otherwise is many. Other channels are the shorter of an image's first and last axis, in an
    array of 4 dimensions or in a list. An array of 2 dimensions is one grey image in a list only: by itself
    it may be rows of numbers as well, and is refused. A torch tensor has its channels first.

    Pixels stay as deep as they are: what becomes black and white is for `tlsearch.images.decoding` to say, by
    one range for all of a data set, as for files.

    Raises:
        DataError: items of no order (a set), without pixels or of another kind; the message names the first.
    """
    if isinstance(given, Items):
        return given
    values: list[Any]
    shape = tuple(getattr(given, "shape", ()))
    if _is_one(given):
        values = [given]
    elif isinstance(given, Set | Mapping):
        raise DataError(
            f"Items can't be given as {kind_of(given)}: its order says nothing.", hint="Pass a list."
        )
    elif hasattr(given, "columns") and hasattr(given, "iloc"):
        if len(given.columns) != 1:
            raise DataError(f"X has the columns {list(given.columns)}; one column of image paths is right.")
        values = list(given.iloc[:, 0])
    elif isinstance(given, np.ndarray) and given.dtype.kind in "OUST" and shape[1:] == (1,):
        values = list(given[:, 0])  # a column of paths
    elif len(shape) == 2:
        raise DataError(
            f"An array of shape {shape} is rows of numbers or one grey image, nobody can tell.",
            hint="Flattened images become X.reshape(-1, height, width); one grey image is X[None].",
        )
    elif hasattr(given, "detach"):
        values = _images_of(_channels_last(_numbers(given)))
    elif isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        values = _images_of(given)
    elif isinstance(given, Iterable):
        values = list(given)
    else:
        raise DataError(f"{_shown(given)} is no item and holds none.", hint=_RIGHT)
    found = [_item(value, position, modality) for position, value in enumerate(values)]
    names = [str(value) if isinstance(value, Path | str) else f"item {n}" for n, value in enumerate(found)]
    return Items(found, names)


def labels_of(y: Any) -> NDArray[Any]:
    """Labels (N,), by position.

    Raises:
        ValueError: they are missing, of no order, or several for an item.
    """
    import pandas

    if y is None:
        raise ValueError("requires y to be passed, but the target y is None: a label for each item.")
    if isinstance(y, str | bytes | Mapping | Set) or not isinstance(y, Iterable):
        raise ValueError(f"y is {kind_of(y)}; right is a list or an array of a label for each item.")
    rows = y if hasattr(y, "__array__") else list(y)
    try:
        labels = np.asarray(rows)
        inner = labels.shape[1:]
    except ValueError:  # lists of different lengths
        inner = (-1,)
    if inner not in ((), (1,)):
        raise ValueError(
            "y has several values for an item; right is one label (N,). TransferSearchMultilabel takes"
            " several; columns of 0 and 1 with a single 1 each become labels by y.argmax(axis=1)."
        )
    labels = labels.ravel()
    if len(lacking := np.flatnonzero(pandas.isna(labels))):
        raise ValueError(f"{len(lacking)} labels of y are missing, such as that of item {lacking[0]}.")
    if labels.dtype.kind in "OUS":
        _refuse_mixed(np.asarray(rows, dtype=object).ravel())
    return labels


def _refuse_mixed(labels: NDArray[Any]) -> None:
    """Refuse texts beside numbers, of which NumPy makes texts without a word."""
    others = [label for label in labels if not isinstance(label, str | bytes)]
    if 0 < len(others) < len(labels):
        raise ValueError(
            f"y has {plural(len(labels) - len(others), 'text')} and {len(others)} other labels, such as "
            f"{others[0]!r}: make all of them texts, as by [str(label) for label in y]."
        )


def missing(items: Items) -> list[str]:
    """Sentences on the paths that no file is at."""
    return [
        f"item {number} ({name}) {'is a folder' if os.path.isdir(value) else 'is not there'}"
        for number, (value, name) in enumerate(zip(items.values, items.names, strict=True))
        if isinstance(value, Path) and not os.path.isfile(value)
    ]


def content_hash(item: Any) -> str:
    """SHA-256 of what an item holds: a path's file, an array with its type and shape, a text or bytes.

    Raises:
        DataError: a path isn't that of a regular file, or it can't be opened.
        OSError: a file can't be read.
        TypeError: it is something else.
    """
    if isinstance(item, Path):
        try:
            with open_regular(item) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except Unreadable as error:
            raise DataError(str(error)) from error
    if isinstance(item, np.ndarray):
        digest = hashlib.sha256(f"{item.dtype.str}{item.shape}".encode())
        digest.update(np.ascontiguousarray(item).data)
        return digest.hexdigest()
    if isinstance(item, str):
        item = item.encode("utf-8", "surrogatepass")
    if not isinstance(item, bytes):
        raise TypeError(f"{kind_of(item)}; no path, array, text or bytes")
    return hashlib.sha256(item).hexdigest()


def _is_one(given: Any) -> bool:
    if isinstance(given, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    return hasattr(given, "getexif") or callable(getattr(given, "read", None))  # a PIL image; an open file


def _item(value: Any, position: int, modality: str) -> Any:
    if callable(getattr(value, "as_py", None)):  # a scalar of Arrow's
        value = value.as_py()
    if modality != "image":
        return str(value) if isinstance(value, str) else value
    if isinstance(value, str) and "://" in value and not os.path.lexists(value):
        raise DataError(
            f"Item {position} ({public(value)}) is a URL; images are read from files of this machine.",
            hint="Download it first, and pass its path or its bytes.",
        )
    if isinstance(value, str | os.PathLike):
        return Path(os.fsdecode(value)).expanduser()
    if callable(getattr(value, "read", None)):  # an open file
        value = value.read()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "getexif"):  # a PIL image
        value = upright(value)  # as a file is
        return np.asarray(value if is_deep(value) else as_rgb(value))
    if hasattr(value, "detach"):
        value = _channels_last(_numbers(value))
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        if value.size == 0:
            raise DataError(f"Item {position} has shape {value.shape}, which holds no pixel.", hint=_RIGHT)
        if value.ndim == 2 or (value.ndim == 3 and value.shape[2] in _CHANNELS):
            return _pixels(value)
        if value.ndim == 3 and (several := _multichannel(value)) is not None:
            return _pixels(several)
        raise DataError(f"Item {position} has shape {value.shape}.", hint=_RIGHT)
    raise DataError(f"Item {position} is {_shown(value)}.", hint=_RIGHT)


def _images_of(array: NDArray[Any]) -> list[Any]:
    """The images of an array of one or of many."""
    alone = array.ndim == 3 and array.shape[2] in _CHANNELS
    if array.shape[:1] == (0,) and all(array.shape[1:]) and not alone:
        return []  # of many, none
    if array.size == 0:
        raise DataError(f"Pixels have shape {array.shape}, which holds none.", hint=_RIGHT)
    if alone:
        return [_pixels(array)]
    if array.ndim == 4 and array.shape[3] not in _CHANNELS:
        array = _channels_last(array)
    if array.ndim == 4 and array.shape[3] not in _CHANNELS:
        several = _multichannel(array)
        if several is not None:
            return list(_pixels(several))
    if not (array.ndim == 4 and array.shape[3] in _CHANNELS) and not (
        array.ndim == 3 and array.shape[2] >= NARROWEST
    ):
        raise DataError(
            f"Pixels have shape {array.shape}.", hint=f"{_RIGHT} Reshape your data if its rows are flattened."
        )
    return list(_pixels(array))


def _numbers(tensor: Any) -> NDArray[Any]:
    """A torch tensor as an array."""
    try:
        plain = tensor.detach().cpu()
        # NumPy has no bfloat16.
        found: NDArray[Any] = (plain.float() if plain.is_floating_point() else plain).numpy()
    except (RuntimeError, TypeError) as error:  # sparse, quantized
        raise DataError(f"A tensor of {tensor.dtype} can't be read: {error}", hint=_RIGHT) from None
    return found


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """An array whose channels stand before height and width, as torch has them, with channels at its end."""
    if array.ndim >= 3 and array.shape[-3] in _CHANNELS and array.shape[-1] not in _CHANNELS:
        return np.moveaxis(array, -3, -1)
    return array


def _multichannel(array: NDArray[Any]) -> NDArray[Any] | None:
    """Pixels (..., H, W, C) of an array whose channels are its shortest axis of three; None where none is."""
    first, middle, last = array.shape[-3:]
    count = min(first, last)
    if first == last or not 0 < count <= MOST_CHANNELS or count >= middle:
        return None
    return array if last == count else np.moveaxis(array, -3, -1)


def _pixels(array: NDArray[Any]) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(
            "Pixels are a masked array.", hint="Say what masked pixels are, such as array.filled(0)."
        )
    return array.astype(np.uint8) * np.uint8(255) if array.dtype.kind == "b" else array


def _shown(value: Any) -> str:
    return f"{kind_of(value)} ({reprlib.repr(value)})"
