"""Outputs of frozen prefixes, stored by content: no image passes the same frozen layers twice.

An entry's key is made of the data, the view of it, and the prefix's operations and weights. So a later trial,
study or process that freezes the same layers reads what an earlier one computed. `materialize` stores the
boundaries of several freeze depths in one pass over the items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.training.arrays import Array, ArraySpec, ArrayStore, Entry
from tlsearch.training.split_point import BoundarySpec, SplitPoint, shared_prefix

Indices = NDArray[np.int64]

_FORMAT = "2"
"""In every key. Entries of format 1 may be of layers that a trial had trained (found in 2026-11)."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Items of which another study may have stored the same boundaries.

    Attributes:
        data_key: of that study's items.
        count: how many it has.
        rows: (N,) the row there of each item, -1 for one that it doesn't have.
    """

    data_key: str
    count: int
    rows: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The items to push through prefixes, and where the results go.

    Attributes:
        store: where boundaries are kept.
        data_key: identifies the items and their order.
        view_key: identifies how they are transformed, with the seed.
        count: how many there are.
        read: item indices (B,), each below ``count``, to a batch of model input.
        batch: items in a forward pass.
        device: where the model is.
        dtype: what floating point tensors are stored as; they come back as the model put them out.
        known: those of another study; what it stored of them is copied.
    """

    store: ArrayStore
    data_key: str
    view_key: str
    count: int
    read: Callable[[Indices], Tensor]
    batch: int = 64
    device: torch.device | str = "cpu"
    dtype: str = "float32"
    known: Known | None = None

    def key(self, split_point: SplitPoint) -> str:
        """Hex digest of all that the stored boundary depends on."""
        # The same values in another memory format make other arrays.
        layout = "".join("l" if spec.channels_last else "c" for spec in split_point.boundary)
        parts = (_FORMAT, self.data_key, split_point.key, self.view_key, self.dtype, str(self.count), layout)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def array_specs(self, split_point: SplitPoint) -> list[ArraySpec]:
        """Of the arrays that hold the split point's boundary for all items."""
        return [
            ArraySpec((self.count, *_stored_shape(spec)), _stored_dtype(spec, self.dtype))
            for spec in split_point.boundary
        ]


@dataclass(frozen=True, slots=True)
class Uncached:
    """Nothing is stored to train on; ``reason`` is for the record.

    ``overflow`` says that the items' outputs don't fit the dtype, so that another dtype may do.
    """

    reason: str
    overflow: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """The stored boundary of a split point for all items.

    Attributes:
        arrays: memory-mapped, one for each boundary tensor, a row for each item.
        boundary: what they hold.
        images: items that were pushed through the prefix by the call that returned this.
        flops: operations that this took.
        pinned: whether fetched tensors are in pinned memory.
        resident: the arrays as tensors on the device, where they are kept there.
    """

    arrays: tuple[Array, ...]
    boundary: tuple[BoundarySpec, ...]
    images: int
    flops: float = 0.0
    pinned: bool = False
    resident: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all that is stored."""
        return sum(array.nbytes for array in self.arrays)

    def onto(self, device: torch.device) -> Activations:
        """The same, kept on a device. Copied in pieces, so that host memory needn't hold it all."""
        tensors = []
        for array in self.arrays:
            tensor = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), device=device)
            for start in range(0, len(array), _PIECE):
                tensor[start : start + _PIECE] = torch.from_numpy(np.array(array[start : start + _PIECE]))
            tensors.append(tensor)
        return replace(self, resident=tuple(tensors))

    def fetch(self, indices: Indices) -> tuple[Tensor, ...]:
        """The boundary, each (B, *shape), of these items: copies, free to be written to.

        They are in host memory, or where all is kept.
        """
        fetched = []
        for number, (array, spec) in enumerate(zip(self.arrays, self.boundary, strict=True)):
            if self.resident:
                kept = self.resident[number]
                tensor = kept[torch.from_numpy(indices).to(kept.device)].to(spec.dtype)
            else:
                tensor = torch.from_numpy(np.asarray(array[indices])).to(spec.dtype)  # such indexing copies
                tensor = tensor.pin_memory() if self.pinned else tensor
            fetched.append(tensor.permute(0, 3, 1, 2) if spec.channels_last else tensor)
        return tuple(fetched)


_PIECE = 256


@dataclass(slots=True)
class Materialized:
    """What `materialize` did.

    Attributes:
        images: items pushed through the shared prefix; 0 where all was there.
        flops: operations that this took.
        overflow: keys of those skipped because values don't fit the dtype.
        stored: the boundaries that are in the store, by their split points' keys.
        skipped: keys of the other split points, with the reason.
    """

    images: int = 0
    flops: float = 0.0
    overflow: set[str] = field(default_factory=set)
    stored: dict[str, Entry] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def activations(
    split_point: SplitPoint, *, items: Items, limit_bytes: int, also: Sequence[SplitPoint] = ()
) -> Activations | Uncached:
    """The stored boundary of a split point, computed where it isn't in the store.

    Args:
        split point: of the model to train.
        items: what to push through its prefix.
        limit_bytes: of what this call may store.
        also: from one `find_split_points` call, one of them with this split point's key. If the items must
            pass the prefix anyway, these are stored in the same pass, as far as the limit allows.
    """
    wanted = [split_point]
    if also and items.store.open(items.key(split_point)) is None:
        twins = [other for other in also if other.key == split_point.key]
        wanted = [*twins, *_ranked(other for other in also if other not in twins)] if twins else wanted
    done = _store(wanted, items, limit_bytes)
    if split_point.key in done.skipped:
        return Uncached(done.skipped[split_point.key], split_point.key in done.overflow)
    pinned = torch.device(items.device).type == "cuda"
    arrays = done.stored[split_point.key].arrays
    return Activations(arrays, split_point.boundary, done.images, done.flops, pinned)


def materialize(split_points: Sequence[SplitPoint], *, items: Items, limit_bytes: int) -> Materialized:
    """Store the boundaries of several split points of one `find_split_points` call in one pass over the
    items.

    Those that save most operations for a stored byte go first.

    Args:
        split points: what to store.
        items: what to push through their prefixes.
        limit_bytes: of all that this call may store.
    """
    return _store(_ranked(split_points), items, limit_bytes)


class _Overflow(Exception):
    """A value doesn't fit the dtype that it is to be stored as."""


def _ranked(split_points: Iterable[SplitPoint]) -> list[SplitPoint]:
    return sorted(split_points, key=lambda one: one.prefix_flops / max(1, one.bytes_per_item), reverse=True)


def _store(split_points: Sequence[SplitPoint], items: Items, limit_bytes: int) -> Materialized:
    """Store what isn't stored, in one pass; earlier split points have the first claim on the bytes."""
    done = Materialized()
    left = limit_bytes if items.store.limit_bytes is None else min(limit_bytes, items.store.limit_bytes)
    missing: list[SplitPoint] = []
    for split_point in split_points:
        size = sum(spec.bytes for spec in items.array_specs(split_point))
        if not split_point.frozen:
            done.skipped[split_point.key] = split_point.reason
        elif split_point.stale:
            done.skipped[split_point.key] = "frozen weights were changed since the frozen part was looked for"
        elif (entry := items.store.open(items.key(split_point))) is not None:
            done.stored[split_point.key] = entry
        elif size > left:
            done.skipped[split_point.key] = (
                f"activations would take {size_text(size)} of {size_text(left)} allowed"
            )
        else:
            missing.append(split_point)
            left -= size
    # In the order of their keys, so that two processes never wait for each other's locks.
    missing.sort(key=items.key)
    try:
        done.images, built = _build(missing, [], items)
    except (OSError, _Overflow) as error:
        done.skipped |= {split_point.key: f"activations can't be stored: {error}" for split_point in missing}
        if isinstance(error, _Overflow):
            done.overflow |= {split_point.key for split_point in missing}
    else:
        done.stored |= built
        # The prefixes of one model are parts of its deepest one.
        done.flops = done.images * max((split_point.prefix_flops for split_point in missing), default=0.0)
    return done


def _build(
    todo: Sequence[SplitPoint], drafts: list[tuple[SplitPoint, Sequence[Array]]], items: Items
) -> tuple[int, dict[str, Entry]]:
    """Open a draft for every split point, one inside the other, and fill all in one pass.

    Returns:
        How many items passed the prefixes, and what is stored of ``todo``, by key.
    """
    if not todo:
        return (_fill(drafts, items) if drafts else 0), {}
    split_point, *rest = todo
    done: tuple[int, dict[str, Entry]] | None = None

    def fill(arrays: Sequence[Array]) -> Mapping[str, Any]:
        nonlocal done
        done = _build(rest, [*drafts, (split_point, arrays)], items)
        return {
            "frontier": split_point.key,
            "data": items.data_key,
            "view": items.view_key,
            "dtype": items.dtype,
        }

    entry = items.store.get_or_build(items.key(split_point), items.array_specs(split_point), fill)
    if done is None:  # another process stored this one meanwhile: go on without it
        done = _build(rest, drafts, items)
    images, inner = done
    return images, {**inner, split_point.key: entry}


def _fill(drafts: Sequence[tuple[SplitPoint, Sequence[Array]]], items: Items) -> int:
    prefix = shared_prefix([split_point for split_point, _ in drafts])
    todo = _copied(drafts, items)
    for start in range(0, len(todo), items.batch):
        chosen = todo[start : start + items.batch]
        boundaries = prefix(items.read(chosen).to(items.device))
        for (split_point, arrays), boundary in zip(drafts, boundaries, strict=True):
            for spec, array, tensor in zip(split_point.boundary, arrays, boundary, strict=True):
                array[chosen] = _rows(spec, tensor, array.dtype)
    return len(todo)


def _copied(drafts: Sequence[tuple[SplitPoint, Sequence[Array]]], items: Items) -> Indices:
    """Copy the rows that another study stored; answers the items that are left to push through.

    One pass fills all drafts, so that rows are copied where each of them was stored.
    """
    everything = np.arange(items.count)
    if items.known is None:
        return everything
    theirs = replace(items, data_key=items.known.data_key, count=items.known.count, known=None)
    found = [items.store.open(theirs.key(split_point)) for split_point, _ in drafts]
    entries = [entry for entry in found if entry is not None]
    if len(entries) < len(drafts):
        return everything
    rows = items.known.rows
    shared = np.flatnonzero(rows >= 0)
    for (_, arrays), entry in zip(drafts, entries, strict=True):
        for array, stored in zip(arrays, entry.arrays, strict=True):
            for start in range(0, len(shared), _PIECE):
                chosen = shared[start : start + _PIECE]
                array[chosen] = stored[rows[chosen]]
    return np.flatnonzero(rows < 0)


def _rows(spec: BoundarySpec, tensor: Tensor, dtype: np.dtype[Any]) -> Array:
    """A boundary tensor as it is stored."""
    if spec.channels_last:
        tensor = tensor.permute(0, 2, 3, 1)
    rows = tensor.to(getattr(torch, dtype.name))  # by torch, since NumPy has no bfloat16
    if rows.dtype != tensor.dtype and bool((rows.isinf() & ~tensor.isinf()).any()):
        raise _Overflow(f"some are too large for {dtype.name}")
    return rows.cpu().numpy()


def _stored_shape(spec: BoundarySpec) -> tuple[int, ...]:
    if not spec.channels_last:
        return spec.shape
    channels, height, width = spec.shape
    return height, width, channels


def _stored_dtype(spec: BoundarySpec, wanted: str) -> str:
    return wanted if spec.dtype.is_floating_point else str(spec.dtype).removeprefix("torch.")


def size_text(count: int) -> str:
    """Bytes for people to read."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
