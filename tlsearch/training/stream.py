"""Batches without end, of the target and beside it of the source, for a training that counts updates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from tlsearch.contracts import Batch, Recipe
from tlsearch.training.batch_source import BatchSource


def target_items(recipe: Recipe, source: BatchSource | None) -> int:
    """Items of the target in a batch."""
    if source is None:
        return recipe.batch_size
    return max(1, round(recipe.batch_size * (1 - recipe.source_share)))


def source_items(recipe: Recipe, feed: BatchSource, share: int) -> int:
    """Source items beside a batch of the target, which may hold fewer items than asked for."""
    items = len(feed.data.indices["train"]) / feed.batches(share)
    return max(1, round(items * recipe.source_share / (1 - recipe.source_share)))


class Stream:
    """Batches without end: a shuffled pass over a feed's training items, then another."""

    def __init__(self, feed: BatchSource, size: int, seed: int, taken: int = 0) -> None:
        self.feed = feed
        self.size = max(1, size)
        self.seed = seed
        self.taken = taken
        self._batches: Iterator[Batch] | None = None

    def take(self) -> Batch:
        """The next batch; its ``epoch`` is the pass."""
        if self._batches is None:
            self._batches = _batches(self.feed, self.size, self.seed, self.taken)
        self.taken += 1
        return next(self._batches)


class PairedStream:
    """Batches of the target; beside each, where there is source data, one of the source."""

    def __init__(self, recipe: Recipe, feed: BatchSource, source: BatchSource | None, seed: int) -> None:
        self.targets = Stream(feed, target_items(recipe, source), seed)
        self.sources: Stream | None = None
        if source is not None:
            self.sources = Stream(source, source_items(recipe, feed, self.targets.size), seed)

    @property
    def batches(self) -> int:
        """Of a pass over the target."""
        return self.targets.feed.batches(self.targets.size)

    @property
    def taken(self) -> int:
        """Batches so far."""
        return self.targets.taken

    @property
    def sources_taken(self) -> int | None:
        """Batches of the source so far; None where there is none."""
        return self.sources.taken if self.sources is not None else None

    def restore(self, taken: int, sources_taken: int | None) -> None:
        """Go on after so many batches."""
        self.targets.taken = taken
        if self.sources is not None and sources_taken is not None:
            self.sources.taken = sources_taken

    def go_on_with(self, feed: BatchSource, source: BatchSource | None) -> None:
        """Take the batches that follow from other feeds of the same items."""
        targets, sources = self.targets, self.sources
        self.targets = Stream(feed, targets.size, targets.seed, targets.taken)
        if source is not None and sources is not None:
            self.sources = Stream(source, sources.size, sources.seed, sources.taken)

    def take(self, epoch: int) -> Batch:
        """The next batch, for training in this epoch."""
        beside = self.sources.take() if self.sources is not None else None
        return replace(self.targets.take(), epoch=epoch, source=beside)


def _batches(feed: BatchSource, size: int, seed: int, taken: int) -> Iterator[Batch]:
    """Batches after so many. It knows no stream: the two would keep each other, and mapped files, alive."""
    passes, skip = divmod(taken, feed.batches(size))
    for number in itertools.count(1 + passes):
        for inputs, targets in feed.train(number, batch_size=size, seed=seed, skip=skip):
            yield Batch(inputs, targets, number, feed.data.task)
        skip = 0
