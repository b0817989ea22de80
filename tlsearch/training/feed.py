"""Batches of one data set at one frontier: from stored activations where there are some, else from items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tlsearch.contracts import InputSpec
from tlsearch.training.activations import Activations, Items, Uncached, activations
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data
from tlsearch.training.frontier import Frontier

Indices = NDArray[np.int64]
EVALUATION_BATCH = 256
MIXUP_ALPHA = 0.2
"""Zhang et al. 2018 (arXiv:1710.09412) use 0.2 on ImageNet."""


@dataclass
class Counts:
    """Items that went through each part of the model. An evaluation counts in ``evaluated`` alone."""

    prefix: int = 0
    trained: int = 0
    evaluated: int = 0


@dataclass(frozen=True, slots=True)
class _View:
    """Stored activations of one view, and which items their rows are (ascending)."""

    activations: Activations
    index: Indices

    def holds(self, index: Indices) -> bool:
        """Whether all of these items are stored; test items are not."""
        return bool(np.isin(index, self.index, assume_unique=False).all())


@dataclass
class Feed:
    """What serves a training loop.

    Attributes:
        data: encoded items, labels and splits.
        inputs: how encoded items become model input.
        frontier: where the frozen prefix ends.
        store: for prefix outputs; None runs the prefix for every batch.
        policy: augmentation of training items.
        views: how many augmented views are stored; epochs take turns.
        seed: of the views, one for the whole study so that trials share them.
        device: where batches go.
        limit_bytes: a prefix whose outputs would need more is run for every batch.
        taps: finds other frontiers of the same backbone, worth storing in the same pass.
        counts: what went through which part so far.
        cache: what served the prefix, for the trial's record.
    """

    data: Data
    inputs: InputSpec
    frontier: Frontier
    store: ArrayStore | None
    policy: str
    views: int
    seed: int
    device: torch.device
    limit_bytes: int
    taps: Callable[[], Sequence[Frontier]] = tuple
    counts: Counts = field(default_factory=Counts)
    cache: str = ""
    _views: dict[int, _View | None] = field(default_factory=dict)
    _draws: dict[int, Tensor | None] = field(default_factory=dict)

    def train(self, epoch: int, *, batch_size: int, seed: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Shuffled training batches of an epoch (from 1): boundary tensors, and targets.

        The last batch is dropped where it would hold a single item, which BatchNorm can't train on.
        """
        items = self.data.indices["train"]
        order = np.random.default_rng((seed, epoch)).permutation(items)
        mixing = torch.Generator().manual_seed(seed * 100_003 + epoch)
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            if len(index) == 1 and start > 0:
                break
            targets = self.labels(index)
            self.counts.trained += len(index)
            if self.policy == "mixup":
                yield self._mixed(index, targets, mixing)
            else:
                yield self.fetch(index, self.view_of(epoch)), targets

    def evaluate(self, split: str, forward: Callable[[tuple[Tensor, ...]], object]) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and labels (N,) of a split, on the CPU."""
        items = self.data.indices[split]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(items), EVALUATION_BATCH):
                index = items[start : start + EVALUATION_BATCH]
                outputs = forward(self.fetch(index, 0))
                logits = outputs[0] if isinstance(outputs, tuple) else outputs
                if not isinstance(logits, Tensor):
                    raise TypeError(f"a model must return logits, not {type(logits).__name__}")
                parts.append(logits.float().cpu())
        self.counts.evaluated += len(items)
        return torch.cat(parts), torch.from_numpy(self.data.labels[items])

    def view_of(self, epoch: int) -> int:
        """Which view an epoch trains on: 0 is not augmented."""
        if self.policy in ("none", "mixup"):
            return 0
        # Stored views are few and take turns; without a store a fresh view costs nothing.
        turns = self.store is not None and self.frontier.frozen
        return 1 + (epoch - 1) % self.views if turns else epoch

    def labels(self, index: Indices) -> Tensor:
        """Labels (B,) of items, on the device."""
        return torch.from_numpy(self.data.labels[index]).to(self.device)

    def fetch(self, index: Indices, view: int) -> tuple[Tensor, ...]:
        """Boundary tensors of items, each with as many rows."""
        stored = self._stored_view(view)
        if stored is not None and stored.holds(index):
            positions = np.searchsorted(stored.index, index)
            fetched = stored.activations.fetch(positions)
            return tuple(tensor.to(self.device, non_blocking=True) for tensor in fetched)
        self.counts.prefix += len(index) if self.frontier.frozen else 0
        return self.frontier.prefix(self.read(index, view))

    def read(self, index: Indices, view: int) -> Tensor:
        """Model input of items, augmented by the view."""
        batch = torch.from_numpy(np.ascontiguousarray(self.data.array[index])).to(self.device)
        if view:
            if view not in self._draws:
                self._draws[view] = self.inputs.draw(
                    self.policy,
                    len(self.data.array),
                    seed=self.seed * 1_009 + view,
                    mirror=self.data.mirror,
                )
            draws = self._draws[view]
            if draws is not None:
                batch = self.inputs.augment(batch, self.policy, draws[torch.from_numpy(index)])
        return self.inputs.to_model(batch)

    def _stored_view(self, view: int) -> _View | None:
        if self.store is None or not self.frontier.frozen:
            self.cache = self.cache or f"none: {self.frontier.reason or 'nothing is frozen'}"
            return None
        if view not in self._views:
            self._views[view] = self._materialize(self.store, view)
        return self._views[view]

    def _materialize(self, store: ArrayStore, view: int) -> _View | None:
        # Test items are not touched before the winner is known; augmented views serve training alone.
        splits = ("train",) if view else tuple(name for name in self.data.indices if name != "test")
        index = np.sort(np.concatenate([self.data.indices[name] for name in splits]))
        items = Items(
            store=store,
            data_key=f"{self.data.key}|{hashlib.sha256(index.tobytes()).hexdigest()}",
            view_key=f"{self.policy}|{self.seed}|{view}|{self.data.mirror}" if view else "plain",
            count=len(index),
            read=lambda positions: self.read(index[positions], view),
            device=self.device,
        )
        # The same pass over the items also serves the other depths that trials will freeze.
        missing = store.open(items.key(self.frontier)) is None
        stored = activations(
            self.frontier,
            items=items,
            limit_bytes=self.limit_bytes,
            also=self.taps() if missing else (),
        )
        if isinstance(stored, Uncached):
            self.cache = f"none: {stored.reason}"
            return None
        self.counts.prefix += stored.images
        self.cache = self.cache or "prefix"
        return _View(stored, index)

    def _mixed(
        self, index: Indices, targets: Tensor, generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Mixup: weighted means of pairs of inputs, and of their one-hot labels."""
        if self.frontier.frozen:
            self.cache = "none: mixup blends inputs anew in every step"
        batch = self.read(index, 0)
        seed = int(torch.randint(2**31, (1,), generator=generator))
        share = float(np.random.default_rng(seed).beta(MIXUP_ALPHA, MIXUP_ALPHA))
        partner = torch.randperm(len(index), generator=generator).to(self.device)
        rows = functional.one_hot(targets, len(self.data.classes)).float()
        self.counts.prefix += len(index) if self.frontier.frozen else 0
        boundary = self.frontier.prefix(batch.lerp(batch[partner], 1 - share))
        return boundary, rows.lerp(rows[partner], 1 - share)
