"""Items as arrays: hashed, decoded once by several threads, and stored by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from tlsearch.contracts.dataset import Samples
from tlsearch.contracts.inputs import InputSpec
from tlsearch.errors import DataError
from tlsearch.items import content_hash
from tlsearch.training.arrays import ArraySpec, ArrayStore
from tlsearch.training.earlier import Earlier, Extended, earlier

Progress = Callable[[int, int], None]
Result = TypeVar("Result")

_SURVEY = 1  # raise it when surveys change
_ENCODING = 1  # raise it when decoding changes: arrays that were stored before are then made anew
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """Every item as an array: (N, *shape), memory-mapped and read-only.

    ``broken`` maps the indices of items that can't be decoded to the reason; their rows are zero.
    ``key`` identifies the array: contents, order and encoding. ``earlier`` is where the extended study stored
    some of them.
    """

    array: NDArray[Any]
    broken: Mapping[int, str]
    key: str
    earlier: Earlier | None = None


def hash_of(samples: Samples, index: int) -> str:
    """SHA-256 of an item's content, or what stands for it where it can't be read."""
    name = samples.names[index]
    try:
        return content_hash(samples.items[index])
    except TypeError as error:
        raise DataError(f"{name} is {error}") from error
    except (DataError, OSError):
        return unreadable_hash(name)


def unreadable_hash(name: str) -> str:
    """What stands for the content of an item that can't be read."""
    return hashlib.sha256(json.dumps(["unreadable", name]).encode()).hexdigest()


def suited(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    fingerprint: str,
    hashes: Sequence[str],
    threads: int = 2,
) -> InputSpec:
    """An input as it suits a data set: what it must know of all items is found once and kept in the store."""
    if type(inputs).survey is InputSpec.survey:
        return inputs
    read = filter(None, [dict(inputs.reading())])
    identity = ["survey", _SURVEY, fingerprint, list(hashes), _kind(inputs), *read]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def survey_some(start: int, end: int) -> list[Mapping[str, Any]]:
        found = []
        for index in range(start, end):
            with contextlib.suppress(DataError):  # a broken item: encoding will name it
                found.append(inputs.survey(samples.items[index]))
        return [one for one in found if one]

    def fill(arrays: Sequence[NDArray[Any]]) -> Mapping[str, Any]:
        chunks = in_threads(survey_some, len(samples.items), threads=threads)
        return {"found": [one for _, chunk in sorted(chunks, key=lambda pair: pair[0]) for one in chunk]}

    return inputs.suited(store.get_or_build(key, [], fill).meta["found"])


def encode(
    samples: Samples,
    inputs: InputSpec,
    store: ArrayStore,
    *,
    fingerprint: str,
    hashes: Sequence[str],
    threads: int = 2,
    extended: Extended | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Encode every item into the store, or open what is there already.

    What the study that is ``extended`` stored is copied; ``progress`` counts the other items.

    Raises:
        OSError: the disk is full.
    """
    key, before = encoding_key(fingerprint, hashes, inputs), None
    if extended is not None:
        theirs = encoding_key(extended.fingerprint, extended.items.hashes, inputs)
        before = earlier(extended, hashes, key=theirs)

    def fill(arrays: Sequence[NDArray[Any]]) -> Mapping[str, Any]:
        todo = _copied(before, store, arrays[0]) if before is not None else range(len(samples.items))
        count = len(todo)

        def encode_some(start: int, end: int) -> dict[str, str]:
            broken = {}
            for index in todo[start:end]:
                try:
                    arrays[0][index] = inputs.encode(samples.items[index])
                except DataError as error:
                    if hash_of(samples, index) != hashes[index]:  # or it would be kept as broken for good
                        raise DataError(
                            f"{samples.names[index]} changed while it was being read",
                            hint="Run it again when nothing writes to the data any more.",
                        ) from None
                    broken[str(index)] = error.message
                except Exception as error:  # not the item's fault: name it and let the error out
                    error.add_note(f"while encoding {samples.names[index]}")
                    raise
            return broken

        broken: dict[str, str] = {}
        done = 0
        # Closed at once if progress raises, so that no thread goes on writing into a draft that is gone.
        with contextlib.closing(in_threads(encode_some, count, threads=threads)) as chunks:
            for start, some in chunks:
                broken |= some
                done += min(_CHUNK, count - start)
                if progress is not None:
                    progress(done, count)
        return {"broken": broken}

    entry = store.get_or_build(key, [ArraySpec((len(samples.items), *inputs.shape), inputs.dtype)], fill)
    reasons = {int(index): reason for index, reason in entry.meta["broken"].items()}
    return Encoded(entry.arrays[0], dict(sorted(reasons.items())), key, before)


def encoding_key(fingerprint: str, hashes: Sequence[str], inputs: InputSpec) -> str:
    """Identifies the encoded items of data with that fingerprint and contents in this order."""
    identity = [_ENCODING, fingerprint, list(hashes), _kind(inputs), inputs.encoding()]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _kind(inputs: InputSpec) -> str:
    """Which class an input is of."""
    return f"{type(inputs).__module__}.{type(inputs).__qualname__}"


def _copied(before: Earlier, store: ArrayStore, array: NDArray[Any]) -> Sequence[int]:
    """Copy the items that were encoded before; answers the indices of those that are left to encode."""
    entry = store.open(before.key)
    if entry is None:
        return range(len(array))
    broken = {int(row) for row in entry.meta["broken"]}
    todo = []
    for index, row in enumerate(before.rows.tolist()):
        if row < 0 or row in broken:
            todo.append(index)
        else:
            array[index] = entry.arrays[0][row]
    return todo


def in_threads(
    work: Callable[[int, int], Result], count: int, *, threads: int
) -> Generator[tuple[int, Result], None, None]:
    """Results of ``work(start, end)`` over pieces of ``range(count)``, each with its start, as they come."""
    executor = ThreadPoolExecutor(max(1, threads), thread_name_prefix="tlsearch-data")
    try:
        starts = range(0, count, _CHUNK)
        futures = {executor.submit(work, start, min(start + _CHUNK, count)): start for start in starts}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(cancel_futures=True)
