"""Batches without end, of the target and beside it of the source, for a training that counts updates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tlsearch.contracts import Batch, Recipe
from tlsearch.training.batch_source import BatchSource


def target_share(recipe: Recipe, source: BatchSource | None) -> int:
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


def _batches(feed: BatchSource, size: int, seed: int, taken: int) -> Iterator[Batch]:
    """Batches after so many. It knows no stream: the two would keep each other, and mapped files, alive."""
    passes, skip = divmod(taken, feed.batches(size))
    for number in itertools.count(1 + passes):
        for inputs, targets in feed.train(number, batch_size=size, seed=seed, skip=skip):
            yield Batch(inputs, targets, number, feed.data.task)
        skip = 0
