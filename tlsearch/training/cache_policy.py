"""What of a model's frozen part is stored, and in which precision.

The exact split point in float32 where it fits the budget; else in float16, if a check says that scores don't
move; else the next shallower split point that fits, likewise; else nothing. The choice depends on the data,
the split point and the budget alone, so that all trials that share these share what is stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.training.activations import Items, size_text
from tlsearch.training.arrays import Array, ArraySpec
from tlsearch.training.split_point import Bridge, SplitPoint, bridge

SAMPLE = 256
"""Items that the check of float16 looks at."""
TOLERANCE = 1e-2
"""How far float16 may move a logit, by the logits' standard deviation."""


Columns = Callable[[NDArray[np.int64]], Tensor]
"""Targets of the items at some positions, as numbers (n, K) that a ridge regression is fitted to."""
Moved = Callable[[Tensor, Tensor], float]
"""How far outputs (n, K) moved: `Task.moved`."""


@dataclass(frozen=True, slots=True, eq=False)
class FreezeDepths:
    """Split points of one model at other freeze depths, from one `find_split_points` call.

    Attributes:
        split points: one of them has the key of what trains now.
        groups: how many there are to freeze; a split point's ``mark`` counts from 0 how many it freezes.
        unasked: operations for one item from which a split point is worth storing unasked.
    """

    split_points: Sequence[SplitPoint] = ()
    groups: int = 0
    unasked: float = float("inf")

    def twin(self, split_point: SplitPoint) -> SplitPoint | None:
        """The same split point among these, where there is one."""
        return next((other for other in self.split_points if other.key == split_point.key), None)

    def worth_storing(self) -> list[SplitPoint]:
        """What a pass over the items may store for trials to come."""
        return [split_point for split_point in self.split_points if split_point.prefix_flops >= self.unasked]

    def below(self, split_point: SplitPoint) -> list[tuple[SplitPoint, Bridge]]:
        """Shallower split points, the deepest first, and what leads from each to this one."""
        twin = self.twin(split_point)
        if twin is None:
            return []
        lower = [other for other in self.split_points if other.prefix_flops < twin.prefix_flops]
        lower.sort(key=lambda other: other.prefix_flops, reverse=True)
        return [(other, way) for other in lower if (way := bridge(other, twin)) is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What is stored for a split point.

    Attributes:
        split point: whose outputs; shallower than the one to serve where there is a ``bridge``.
        bridge: the frozen layers between, run for every batch.
        dtype: that floating point tensors are stored as.
        told: for the trial's record.
    """

    split_point: SplitPoint
    bridge: Bridge | None
    dtype: str
    told: str


def choices(
    split_point: SplitPoint,
    *,
    find: Callable[[], FreezeDepths],
    items: Items,
    columns: Columns,
    moved: Moved,
    rows: int,
    limit_bytes: int,
    count: Callable[[int, float], None],
) -> Iterator[Choice | str]:
    """What can be stored, the best first; at last the reason why nothing is.

    Several come where a choice turns out impossible as the items are pushed through.

    Args:
        split point: where what trains begins.
        find: finds split points of the same model; called only where this one doesn't fit.
        items: not augmented, of training, as they are read.
        columns: of the items at some positions.
        moved: how far outputs moved.
        rows: to be stored: all items, in all their views.
        limit_bytes: for all rows.
        count: is told of items that pass frozen layers to be checked, and of the operations for one.
    """
    whole = _bytes(split_point, rows, items)
    if whole <= limit_bytes:
        yield Choice(split_point, None, "float32", "prefix")
        yield "activations can't be stored"
        return
    over = f"would take {size_text(whole)} of {size_text(limit_bytes)} allowed"
    refused = ""
    depths = find()
    candidates: list[tuple[SplitPoint, Bridge | None]] = [(split_point, None), *depths.below(split_point)]
    for chosen, way in candidates:
        place, why = "prefix", ""
        if way is not None:
            place = f"prefix up to group {chosen.mark + 1} of {depths.groups}"
            why = f": deeper outputs {over}{refused}"
            if _bytes(chosen, rows, items) <= limit_bytes:
                yield Choice(chosen, way, "float32", place + why)
        half = replace(items, dtype="float16")
        if _bytes(chosen, rows, half) > limit_bytes:
            continue
        far = float16_moves(chosen, depths, items=half, columns=columns, moved=moved, count=count)
        if far is not None and far <= TOLERANCE:
            yield Choice(chosen, way, "float16", f"{place} in float16 (logits within {_up(far)}){why}")
        elif way is None:
            refused = ", and in float16 scores move" if far is not None else ""
    yield f"activations {over}{refused}"


def float16_moves(
    split_point: SplitPoint,
    depths: FreezeDepths,
    *,
    items: Items,
    columns: Columns,
    moved: Moved,
    count: Callable[[int, float], None],
) -> float | None:
    """How far float16 moves logits, by their standard deviation; inf where it moves a predicted class.

    A trial's own head is fresh: what its noise says of two roundings depends on the draw. So the network is
    followed to the features that enter a head, a ridge head is fitted on those of every other sampled item,
    and its logits are compared for all of them. The verdict is stored, so that later trials have the same,
    also where what they train starts from another draw.

    Returns:
        None where that can't be told: the way to the features isn't known, or the disk is full.
    """
    deepest = max(depths.split_points, key=lambda one: one.prefix_flops, default=None)
    twin = depths.twin(split_point)
    if deepest is None or twin is None:
        return None
    way = bridge(twin, deepest) if twin is not deepest else None
    if way is None and twin is not deepest:
        return None

    def fill(arrays: Sequence[Array]) -> Mapping[str, Any]:
        count(min(SAMPLE, items.count), split_point.prefix_flops + (2 * way.flops if way else 0.0))
        arrays[0][:] = _moves(split_point, way, items, columns, moved)
        return {"frontier": split_point.key, "data": items.data_key}

    key = hashlib.sha256(f"float16|{items.key(split_point)}".encode()).hexdigest()
    try:
        return float(items.store.get_or_build(key, [ArraySpec((1,), "float64")], fill).arrays[0][0])
    except OSError:
        return None


def _moves(
    split_point: SplitPoint, way: Bridge | None, items: Items, columns: Columns, moved: Moved
) -> float:
    sample = np.sort(np.random.default_rng(0).permutation(items.count)[:SAMPLE])
    exact, rounded = [], []
    for start in range(0, len(sample), items.batch):
        boundary = split_point.prefix(items.read(sample[start : start + items.batch]).to(items.device))
        halved = tuple(_as_float16(tensor) for tensor in boundary)
        if any(bool((h.isinf() & ~t.isinf()).any()) for h, t in zip(halved, boundary, strict=True)):
            return float("inf")
        # Copies, since layers may write into what they are given.
        exact.append(_flat(way(tuple(tensor.clone() for tensor in boundary)) if way else boundary))
        rounded.append(_flat(way(halved) if way else halved))
    one, two = torch.cat(exact), torch.cat(rounded)
    outputs = _ridge(one[::2], columns(sample)[::2])
    return moved(outputs(one), outputs(two))


def _as_float16(tensor: Tensor) -> Tensor:
    return tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor.clone()


def _flat(boundary: tuple[Tensor, ...]) -> Tensor:
    """All numbers of an item in a row: (B, D), float64, on the CPU."""
    return torch.cat([tensor.flatten(1).cpu().double() for tensor in boundary], dim=1)


def _ridge(features: Tensor, targets: Tensor) -> Any:
    """A head in closed form, by its dual: there are fewer items than features."""
    mean = features.mean(dim=0)
    centred = features - mean
    gram = centred @ centred.T
    strength = 1e-2 * gram.diagonal().mean().clamp(min=1e-12)
    weights = centred.T @ torch.linalg.solve(gram + strength * torch.eye(len(gram)).double(), targets)
    return lambda rows: (rows - mean) @ weights


def _up(value: float) -> str:
    """A number, rounded up to one digit."""
    if value == 0:
        return "0"
    place = 10.0 ** math.floor(math.log10(value))
    return f"{math.ceil(value / place) * place:.0e}"


def _bytes(split_point: SplitPoint, rows: int, items: Items) -> int:
    return sum(spec.bytes for spec in replace(items, count=rows).array_specs(split_point))
