"""Outputs of frozen prefixes, stored by content: no image passes the same frozen layers twice.

An entry's key is made of the data, the view of it, and the prefix's operations and weights. So a later trial,
study or process that freezes the same layers reads what an earlier one computed. `materialize` stores the
boundaries of several freeze depths in one pass over the items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.training.arrays import Array, ArraySpec, ArrayStore
from tlsearch.training.frontier import BoundarySpec, Frontier, shared_prefix

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unstored:
    """There are no stored outputs to train on: every batch passes the prefix. ``reason`` is for the record."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """A frontier's boundary for some items of a data set.

    Attributes:
        arrays: memory-mapped, one for each boundary tensor, a row for each of ``items``.
        boundary: what they hold.
        items: sorted indices in the data set.
        device: where fetched tensors go.
        computed: items that were pushed through the prefix by the call that returned this.
    """

    arrays: tuple[Array, ...]
    boundary: tuple[BoundarySpec, ...]
    items: Indices
    device: torch.device
    computed: int

    def fetch(self, indices: Indices) -> tuple[Tensor, ...]:
        """The boundary, each (B, *shape), of these items of the data set: a copy, free to be written to.

        Raises:
            KeyError: one of them isn't stored.
        """
        rows = np.searchsorted(self.items, indices).clip(max=len(self.items) - 1)
        if not np.array_equal(self.items[rows], indices):
            absent = np.setdiff1d(indices, self.items)
            raise KeyError(f"no activations are stored for items {absent[:5].tolist()}")
        fetched = []
        for array, spec in zip(self.arrays, self.boundary, strict=True):
            tensor = torch.from_numpy(np.asarray(array[rows]))  # indexing with an array copies
            if self.device.type == "cuda":
                tensor = tensor.pin_memory().to(self.device, non_blocking=True)
            if spec.channels_last:
                tensor = tensor.permute(0, 3, 1, 2)
            fetched.append(tensor.to(spec.dtype))
        return tuple(fetched)


@dataclass(slots=True)
class Materialized:
    """What `materialize` did.

    Attributes:
        computed: items pushed through the shared prefix; 0 where all was there.
        stored: keys of the frontiers whose boundaries are in the store.
        skipped: keys of the others, with the reason.
    """

    computed: int = 0
    stored: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def activations(
    frontier: Frontier,
    *,
    store: ArrayStore,
    data_key: str,
    view_key: str,
    items: Indices,
    read: Callable[[Indices], Tensor],
    device: torch.device | str = "cpu",
    limit_bytes: int,
    batch: int = 64,
    dtype: str = "float32",
    also: Sequence[Frontier] = (),
) -> Activations | Unstored:
    """The stored boundary of a frontier, computed where it isn't in the store.

    Args:
        frontier: of the model to train.
        store: where boundaries are kept.
        data_key: identifies the data set, its items and their order.
        view_key: identifies how items are transformed, with the seed.
        items: indices of the items wanted.
        read: item indices (B,) to a batch of model input.
        device: where the model is.
        limit_bytes: of what may be stored by this call.
        batch: items in a forward pass.
        dtype: what floating point tensors are stored as; they come back as the model put them out.
        also: from `find_frontiers`, one with this frontier's key among them. If the items must pass the
            prefix anyway, these are stored in the same pass as far as the limit allows.
    """
    task = _Task(store, data_key, view_key, np.unique(items), read, torch.device(device), batch, dtype)
    twins = [other for other in also if other.key == frontier.key]
    wanted = (
        [twins[0], *_ranked(other for other in also if other.key != frontier.key)] if twins else [frontier]
    )
    if frontier.frozen and store.open(task.key(frontier)) is not None:
        wanted = [frontier]
    done = _store(wanted, task, limit_bytes)
    if frontier.key in done.skipped:
        return Unstored(done.skipped[frontier.key])
    entry = store.open(task.key(frontier))
    if entry is None:
        return Unstored("the stored activations were evicted at once: the store's limit is too low")
    return Activations(entry.arrays, frontier.boundary, task.items, task.device, done.computed)


def materialize(
    frontiers: Sequence[Frontier],
    *,
    store: ArrayStore,
    data_key: str,
    view_key: str,
    items: Indices,
    read: Callable[[Indices], Tensor],
    device: torch.device | str = "cpu",
    limit_bytes: int,
    batch: int = 64,
    dtype: str = "float32",
) -> Materialized:
    """Store the boundaries of several frontiers of one `find_frontiers` call in one pass over the items.

    Those that save most operations for a stored byte go first. Arguments as for `activations`.
    """
    task = _Task(store, data_key, view_key, np.unique(items), read, torch.device(device), batch, dtype)
    return _store(_ranked(frontiers), task, limit_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """The items to push through prefixes, and where the results go."""

    store: ArrayStore
    data_key: str
    view_key: str
    items: Indices
    read: Callable[[Indices], Tensor]
    device: torch.device
    batch: int
    dtype: str

    def key(self, frontier: Frontier) -> str:
        """Hex digest of all that the stored boundary depends on."""
        digest = hashlib.sha256(self.items.astype(np.int64).tobytes())
        digest.update("\n".join((self.data_key, frontier.key, self.view_key, self.dtype)).encode())
        # The same values in another memory format make other arrays.
        digest.update(repr([spec.channels_last for spec in frontier.boundary]).encode())
        return digest.hexdigest()

    def specs(self, frontier: Frontier) -> list[ArraySpec]:
        """Of the arrays that hold the frontier's boundary."""
        return [
            ArraySpec((len(self.items), *_stored_shape(spec)), _stored_dtype(spec, self.dtype))
            for spec in frontier.boundary
        ]


class _Overflow(Exception):
    """A value doesn't fit the dtype that it is to be stored as."""


def _ranked(frontiers: Iterable[Frontier]) -> list[Frontier]:
    return sorted(frontiers, key=lambda one: one.prefix_flops / max(1, one.bytes_per_item), reverse=True)


def _store(frontiers: Sequence[Frontier], task: _Task, limit_bytes: int) -> Materialized:
    """Store what isn't stored, in one pass; earlier frontiers have the first claim on the bytes."""
    done = Materialized()
    left = limit_bytes if task.store.limit_bytes is None else min(limit_bytes, task.store.limit_bytes)
    missing: list[Frontier] = []
    for frontier in frontiers:
        size = sum(spec.bytes for spec in task.specs(frontier))
        if not frontier.frozen:
            done.skipped[frontier.key] = frontier.reason
        elif task.store.open(task.key(frontier)) is not None:
            done.stored.append(frontier.key)
        elif size > left:
            done.skipped[frontier.key] = f"activations would take {_size(size)} of {_size(left)} allowed"
        else:
            missing.append(frontier)
            left -= size
    # In the order of their keys, so that two processes never wait for each other's locks.
    missing.sort(key=task.key)
    try:
        done.computed = _build(missing, [], task)
    except (OSError, _Overflow) as error:
        done.skipped |= {frontier.key: f"activations can't be stored: {error}" for frontier in missing}
    else:
        done.stored += [frontier.key for frontier in missing]
    return done


def _build(todo: Sequence[Frontier], drafts: list[tuple[Frontier, Sequence[Array]]], task: _Task) -> int:
    """Open a draft for every frontier, one inside the other, and fill all in one pass; returns the items."""
    if not todo:
        return _fill(drafts, task) if drafts else 0
    frontier, *rest = todo
    computed: int | None = None

    def fill(arrays: Sequence[Array]) -> Mapping[str, Any]:
        nonlocal computed
        computed = _build(rest, [*drafts, (frontier, arrays)], task)
        return {"frontier": frontier.key, "data": task.data_key, "view": task.view_key, "dtype": task.dtype}

    task.store.get_or_build(task.key(frontier), task.specs(frontier), fill)
    if computed is None:  # another process stored this one meanwhile: go on without it
        computed = _build(rest, drafts, task)
    return computed


def _fill(drafts: Sequence[tuple[Frontier, Sequence[Array]]], task: _Task) -> int:
    prefix = shared_prefix([frontier for frontier, _ in drafts])
    for start in range(0, len(task.items), task.batch):
        chosen = task.items[start : start + task.batch]
        boundaries = prefix(task.read(chosen).to(task.device))
        for (frontier, arrays), boundary in zip(drafts, boundaries, strict=True):
            for spec, array, tensor in zip(frontier.boundary, arrays, boundary, strict=True):
                array[start : start + len(chosen)] = _rows(spec, tensor, array.dtype)
    return len(task.items)


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


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
