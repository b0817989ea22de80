"""Batches of one data set at one split point: of stored activations where there are some, else of items."""

from __future__ import annotations

import hashlib
import json
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.contracts import InputSpec, PlaceTask, Scores
from tlsearch.spec.sections import FEW_VIEWS
from tlsearch.training.activations import Activations, Items, Known, activations
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.cache_policy import Choice, FreezeDepths, choices
from tlsearch.training.data import Data
from tlsearch.training.failures import out_of_memory
from tlsearch.training.prefetch import ahead
from tlsearch.training.split_point import Bridge, SplitPoint

Indices = NDArray[np.int64]
EVALUATION_BATCH = 256
MIXUP_ALPHA = 0.2
"""Zhang et al. 2018 (arXiv:1710.09412) use 0.2 on ImageNet."""


@dataclass
class Counts:
    """Items that went through each part of the model. An evaluation counts in ``evaluated`` alone.

    ``prefix`` counts those that frozen layers were run for, be it all or some of them; ``frozen_flops`` are
    the operations that this took.
    """

    prefix: int = 0
    trained: int = 0
    evaluated: int = 0
    frozen_flops: float = 0.0


@dataclass(frozen=True, slots=True)
class _View:
    """Stored activations of one view, which items their rows are (ascending), and the layers they lack."""

    activations: Activations
    index: Indices
    bridge: Bridge | None

    def holds(self, index: Indices) -> bool:
        """Whether all of these items are stored; test items are not."""
        return bool(np.isin(index, self.index, assume_unique=False).all())


@dataclass
class BatchSource:
    """What serves a training loop.

    Attributes:
        data: encoded items, targets and splits.
        inputs: how encoded items become model input.
        split point: where the frozen prefix ends.
        store: for prefix outputs; None runs the prefix for every batch.
        policy: augmentation of training items.
        views: how many augmented views are stored; epochs take turns.
        seed: of the views, one for the whole study so that trials share them.
        device: where batches go.
        limit_bytes: for the outputs that a trial has stored, of all its views; see `choices`.
        taps: finds the split points of other freeze depths.
        ahead: batches to load beforehand, by a thread of their own; 0 where the CPU trains and has no time.
        room: how many bytes of the device stored outputs may take now.
        taught: what a teacher puts out for items under a view, (B, ...) on the device; the last of a training
            batch's inputs where it is given.
        balance: how batches make up for unequal classes, see `Task.drawn`; empty for not at all.
        counts: what went through which part so far.
        cache: what served the prefix, for the trial's record.
    """

    data: Data
    inputs: InputSpec
    split_point: SplitPoint
    store: ArrayStore | None
    policy: str
    views: int
    seed: int
    device: torch.device
    limit_bytes: int
    taps: Callable[[], FreezeDepths] = FreezeDepths
    ahead: int = 0
    room: Callable[[], int] = int
    taught: Callable[[Indices, int], Tensor] | None = None
    balance: str = ""
    counts: Counts = field(default_factory=Counts)
    cache: str = ""
    _views: dict[int, _View | None] = field(default_factory=dict)
    _draws: dict[int, Tensor | None] = field(default_factory=dict)
    _choices: Iterator[Choice | str] | None = None
    _choice: Choice | str = ""
    _depths: FreezeDepths | None = None
    _evaluated_at_once: int = EVALUATION_BATCH

    def __post_init__(self) -> None:
        self._evaluated_at_once = min(EVALUATION_BATCH, self.data.task.at_once)

    def train(
        self, epoch: int, *, batch_size: int, seed: int, skip: int = 0
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Shuffled training batches of a pass over the items (from 1): boundary tensors, and targets.

        Items are shared out evenly, so that every item weighs the same in every pass. The first ``skip``
        batches are passed over, and the rest is the same as without.
        """
        items = self.data.indices["train"]
        order = self._order(items, np.random.default_rng((seed, epoch)))
        mixing = torch.Generator().manual_seed(seed * 100_003 + epoch)
        mixup = self.policy == "mixup"
        batches = np.array_split(order, self.batches(batch_size))
        for index in batches[:skip] if mixup else ():
            _draw_mixing(len(index), mixing)
        view = self.view_of(epoch)
        stored = None if mixup else self._stored_view(view)
        loads = [partial(self._load, index, stored) for index in batches[skip:]]
        for index, loaded in zip(batches[skip:], ahead(loads, self.ahead), strict=True):
            targets = self.targets(index, view)
            self.counts.trained += len(index)
            if mixup:
                yield self._mixed(self._to_model(loaded, index, epoch), targets, mixing)
            else:
                taught = () if self.taught is None else (self.taught(index, view),)
                yield (*self._boundary(loaded, index, view, stored), *taught), targets

    def _order(self, items: Indices, chance: np.random.Generator) -> Indices:
        """Items of a pass in their order: each once, or drawn as often as balance asks for."""
        often = (
            self.data.task.sampling_weights(self.data.targets[items], self.balance) if self.balance else None
        )
        if often is None:
            return chance.permutation(items)
        return chance.choice(items, len(items), p=often / often.sum())

    def batches(self, batch_size: int) -> int:
        """How many training batches a pass has: none of a single item, which BatchNorm can't train on."""
        count = len(self.data.indices["train"])
        return max(1, min(math.ceil(count / batch_size), count // 2))

    def evaluate(self, split: str, forward: Callable[..., object], *, whole: bool = False) -> Scores:
        """All metrics of the task on a split; ``whole`` as in `outputs`."""
        evaluator = self.data.task.evaluator(self.data.target_spec)
        for outputs, targets in self.outputs(split, forward, whole=whole):
            evaluator.update(outputs, targets)
        return evaluator.compute()

    def outputs(
        self,
        split: str,
        forward: Callable[..., object],
        *,
        whole: bool = False,
        first: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Outputs and targets of a split, a batch at a time, on the CPU.

        Args:
            split: its name.
            forward: gets the boundary tensors, as a tuple.
            whole: ``forward`` is a whole model, which gets model input, whatever the split point is.
            first: only so many of its items.
        """
        items = self.data.indices[split][:first]
        done = 0
        while done < len(items):
            index = items[done : done + self._evaluated_at_once]
            try:
                outputs = self._outputs(index, forward, whole=whole)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self._evaluated_at_once == 1:
                    raise
            else:
                yield outputs, torch.from_numpy(self.data.targets[index])
                done += len(index)
                continue
            # Only now has the error let go of the tensors that it was raised among.
            self._evaluated_at_once //= 2
            torch.cuda.empty_cache()
        self.counts.evaluated += len(items)

    def _outputs(self, index: Indices, forward: Callable[..., object], *, whole: bool) -> Tensor:
        with torch.inference_mode():
            outputs = forward(self.read(index, 0) if whole else self.fetch(index, 0))
            first = outputs[0] if isinstance(outputs, tuple) else outputs
            if not isinstance(first, Tensor):
                raise TypeError(f"a model must return a tensor, not {type(first).__name__}")
            return first.float().cpu()

    def view_of(self, epoch: int) -> int:
        """Which view an epoch trains on: 0 is not augmented."""
        if self.policy in ("none", "mixup"):
            return 0
        # What is stored, or told by a teacher, is of a few views that take turns; else a fresh one is free.
        turns = self.taught is not None or (self.store is not None and self.split_point.frozen)
        return 1 + (epoch - 1) % self.views if turns else epoch

    def targets(self, index: Indices, view: int = 0) -> Tensor:
        """Targets (B, ...) of items under a view, on the device."""
        targets = torch.from_numpy(self.data.targets[index]).to(self.device)
        task = self.data.task
        if not isinstance(task, PlaceTask) or (draws := self._drawn(view)) is None:
            return targets
        rows = draws[torch.from_numpy(index)]
        return task.move(targets, self.inputs, self.policy, rows)

    def fetch(self, index: Indices, view: int) -> tuple[Tensor, ...]:
        """Boundary tensors of items, each with as many rows."""
        stored = self._stored_view(view)
        if stored is not None and not stored.holds(index):
            stored = None
        return self._boundary(self._load(index, stored), index, view, stored)

    def read(self, index: Indices, view: int) -> Tensor:
        """Model input of items, augmented by the view."""
        return self._to_model(self._load(index, None), index, view)

    def _load(self, index: Indices, stored: _View | None) -> tuple[Tensor, ...]:
        """What is kept of items: stored boundary tensors, else the encoded items. Any thread may ask."""
        if stored is not None:
            return stored.activations.fetch(np.searchsorted(stored.index, index))
        encoded = torch.from_numpy(np.ascontiguousarray(self.data.array[index]))
        return (encoded.pin_memory() if self.device.type == "cuda" else encoded,)

    def _boundary(
        self, loaded: tuple[Tensor, ...], index: Indices, view: int, stored: _View | None
    ) -> tuple[Tensor, ...]:
        """Boundary tensors, on the device, of items that were loaded."""
        if stored is None:
            self._passed(len(index), self.split_point.prefix_flops)
            return self.split_point.prefix(self._to_model(loaded, index, view))
        tensors = tuple(tensor.to(self.device, non_blocking=True) for tensor in loaded)
        if stored.bridge is None:
            return tensors
        self._passed(len(index), stored.bridge.flops)
        return stored.bridge(tensors)

    def _passed(self, items: int, flops: float) -> None:
        if self.split_point.frozen:
            self.counts.prefix += items
            self.counts.frozen_flops += items * flops

    def _to_model(self, loaded: tuple[Tensor, ...], index: Indices, view: int) -> Tensor:
        (batch,) = loaded
        batch = batch.to(self.device, non_blocking=True)
        draws = self._drawn(view)
        if draws is not None:
            batch = self.inputs.augment(batch, self._policy, draws[torch.from_numpy(index)])
        return self.inputs.to_model(batch)

    @property
    def _policy(self) -> str:
        """What is done to single items: mixup blends what is flipped, where that is known to be harmless."""
        if self.policy != "mixup":
            return self.policy
        return "flip" if "flip" in self.inputs.policies else "none"

    def _drawn(self, view: int) -> Tensor | None:
        """Augmentation parameters of all items under a view; None where nothing is changed."""
        if not view:
            return None
        if view not in self._draws:
            seed = self.seed * 1_009 + view
            count, mirror = len(self.data.array), self.data.mirror
            self._draws[view] = self.inputs.draw(self._policy, count, seed=seed, mirror=mirror)
        return self._draws[view]

    def _stored_view(self, view: int) -> _View | None:
        if self.store is None or not self.split_point.frozen:
            self.cache = self.cache or f"none: {self.split_point.reason or 'nothing is frozen'}"
            return None
        if view not in self._views:
            self._views[view] = self._materialize(self.store, view)
        return self._views[view]

    def _materialize(self, store: ArrayStore, view: int) -> _View | None:
        if self._choices is None:
            self._choices = self._ranked(store)
            self._choice = next(self._choices)
        index = self._kept(view)
        while not isinstance(self._choice, str):
            choice = self._choice
            items = self._items(store, index, view, choice.dtype)
            # The same pass over the items also serves the other depths that trials will freeze. Of many views
            # it would take longer than what one trial trains, before anybody knows that others follow.
            few = not view or self.views <= FEW_VIEWS
            missing = few and choice.dtype == "float32" and store.open(items.key(choice.split_point)) is None
            stored = activations(
                choice.split_point,
                items=items,
                limit_bytes=self.limit_bytes,
                also=self._others().worth_storing() if missing else (),
            )
            if isinstance(stored, Activations):
                self.counts.prefix += stored.images
                self.counts.frozen_flops += stored.flops
                self.cache = self.cache or choice.told
                if self.device.type != "cpu" and stored.bytes <= self.room():
                    stored = stored.onto(self.device)
                return _View(stored, index, choice.bridge)
            self._choice = next(self._choices) if stored.overflow else stored.reason
        self.cache = f"none: {self._choice}"
        return None

    def _ranked(self, store: ArrayStore) -> Iterator[Choice | str]:
        """What can be stored at the split point: the same in each trial with as many views of these items."""
        train = self._kept(1) if "train" in self.data.indices else self._kept(0)[:0]  # as for measuring alone
        augmented = 0 if self.policy in ("none", "mixup") else self.views
        me = weakref.proxy(self)  # see `_items`
        limits = [self.limit_bytes, *([] if store.limit_bytes is None else [store.limit_bytes])]
        return choices(
            self.split_point,
            find=lambda: me._others(),
            items=self._items(store, train, 0, "float32"),
            columns=lambda positions: me.data.columns(train[positions]),
            moved=self.data.task.moved,
            rows=len(self._kept(0)) + augmented * len(train),
            limit_bytes=min(limits),
            count=lambda items, flops: me._passed(items, flops),
        )

    def _others(self) -> FreezeDepths:
        if self._depths is None:
            # An evaluation may be the first to ask, and to build a model counts versions of tensors.
            with torch.inference_mode(False):
                self._depths = self.taps()
        return self._depths

    def _kept(self, view: int) -> Indices:
        """Items of a view that are stored, ascending."""
        # Test items are not touched before the winner is known; augmented views serve training alone.
        splits = ("train",) if view else tuple(name for name in self.data.indices if name != "test")
        return np.unique(np.concatenate([self.data.indices[name] for name in splits]))

    def _items(self, store: ArrayStore, index: Indices, view: int, dtype: str) -> Items:
        # A feed that held itself would keep its files mapped until the collector comes by, trials later.
        me = weakref.proxy(self)
        return Items(
            store=store,
            data_key=f"{_rows_key(self.data.key, index)}{self._normal}",
            view_key=f"{self.policy}|{self.seed}|{view}|{self.data.mirror}" if view else "plain",
            count=len(index),
            read=lambda positions: me.read(index[positions], view),
            device=self.device,
            dtype=dtype,
            known=self._known(index) if not view else None,
        )

    @property
    def _normal(self) -> str:
        """What tells model inputs apart that are made of the same encoded items; empty where the key does."""
        told = self.inputs.to_json()
        return "" if told == self.inputs.encoding() else f"|{json.dumps(told, sort_keys=True)}"

    def _known(self, index: Indices) -> Known | None:
        """Items that the extended study stored; of augmented views it drew others for the same items."""
        earlier = self.data.earlier
        if earlier is None or self._normal:  # its training items had another mean
            return None
        return Known(_rows_key(earlier.key, earlier.kept), len(earlier.kept), earlier.positions(index))

    def _mixed(
        self, batch: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Mixup: weighted means of pairs of inputs, and of their targets."""
        if self.split_point.frozen:
            self.cache = "none: mixup blends inputs anew in every step"
        share, partner = _draw_mixing(len(batch), generator)
        partner = partner.to(self.device)
        self._passed(len(batch), self.split_point.prefix_flops)
        boundary = self.split_point.prefix(batch.lerp(batch[partner], 1 - share))
        return boundary, self.data.task.mix(targets, targets[partner], share, self.data.target_spec)


def _rows_key(key: str, rows: Indices) -> str:
    """Identifies some of the encoded items of that key."""
    return f"{key}|{hashlib.sha256(rows.tobytes()).hexdigest()}"


def _draw_mixing(count: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """A weight for the items of a batch, and the partner of each (B,)."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(MIXUP_ALPHA, MIXUP_ALPHA))
    return share, torch.randperm(count, generator=generator)
