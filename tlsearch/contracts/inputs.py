"""How a raw item becomes the tensor that a backbone takes.

The seam that keeps tlsearch about transfer and not about pictures: a backbone brings an `InputSpec`,
the core encodes every item with it once, stores the arrays, and never looks inside them.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch import walk
from tlsearch.errors import DataError, did_you_mean


class InputSpec(abc.ABC):
    """Turns raw items into arrays of one shape, and batches of these into model input."""

    modality: ClassVar[str]
    """``"image"``, ``"text"``, ...: a data set of another modality is refused with a sentence."""

    movable: ClassVar[tuple[str, ...]] = ("none",)
    """Policies that `move` knows."""

    blendable: ClassVar[bool] = False
    """Whether a weighted mean of two model inputs is a model input (mixup); false for token ids."""

    @property
    def policies(self) -> tuple[str, ...]:
        """Augmentation policies that `augment` knows."""
        return ("none",)

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded item."""

    @property
    @abc.abstractmethod
    def dtype(self) -> str:
        """NumPy dtype of an encoded item, such as ``"uint8"``."""

    @abc.abstractmethod
    def encode(self, item: object) -> NDArray[Any]:
        """One raw item (a path, an array, a string, ...) as an array of `shape` and `dtype`.

        Raises:
            DataError: the item is broken; the message says how.
        """

    def survey(self, item: object) -> Mapping[str, Any]:
        """What must be known of all items of a data set before the first is encoded, JSON-serializable.

        Nothing, unless an input says otherwise. A broken item has nothing to tell and raises nothing.
        """
        return {}

    def suited(self, surveys: Iterable[Mapping[str, Any]]) -> InputSpec:
        """This input as it encodes the items of one data set, from the `survey` of each."""
        return self

    def fitted(self, encoded: NDArray[Any], train: NDArray[np.int64]) -> InputSpec:
        """This input with what it must know of the encoded training items, such as their mean.

        Args:
            encoded: items (N, *shape).
            train: indices of those that are trained on.
        """
        return self

    def reading(self) -> Mapping[str, Any]:
        """What else than the class decides on what `survey` finds, as JSON."""
        return {}

    def encoding(self) -> Mapping[str, Any]:
        """What of `to_json` decides on encoded items: all, unless an input says otherwise."""
        return self.to_json()

    def of_pixels(self, channels: int, bits: int) -> InputSpec:
        """This input for pictures of so many channels and bits, as a study file's data section has them.

        Raises:
            DataError: its items aren't pictures.
        """
        raise DataError(
            f"data.channels and data.bits are for pictures, and the backbone takes {self.modality} items.",
            hint="Leave them out.",
        )

    def resized(self, resize: str) -> InputSpec:
        """This input as it brings items to its shape in the way of a study file's ``data.resize``.

        Raises:
            DataError: there is no such way for its items.
        """
        raise DataError(
            f"data.resize: {resize} is for pictures, and the backbone takes {self.modality} items.",
            hint="Leave data.resize out.",
        )

    @abc.abstractmethod
    def to_model(self, batch: Tensor) -> Tensor:
        """A batch of encoded items (B, *shape) as the trunk's input."""

    @abc.abstractmethod
    def to_json(self) -> Mapping[str, Any]:
        """The constructor's arguments, JSON-serializable: enough to encode the same way elsewhere."""

    def find(self, named: str) -> Sequence[tuple[str, object]]:
        """The raw items that a word on the command line stands for, each with what to call it.

        A file is one item, and a folder as many as it has files at any depth that may be pictures, as in
        training; another modality may read more out of a word (a table of texts, a text itself).

        Raises:
            DataError: nothing of that name is there.
        """
        if not named:  # it would be the current folder
            raise DataError(
                "An item is empty.", hint="Name a file or a folder; . is the one that you are in."
            )
        path = Path(named)
        if os.path.isdir(path):  # as below, false for names that no file can have
            left = walk.Left()
            inside = [inner for inner, reason in walk.files(path, path.resolve(), left) if not reason]
            if not inside and self.modality == "image":
                found = walk.files(path, path.resolve(), walk.Left(), arrays=True)
                inside = [inner for inner, reason in found if not reason]
            if not inside:
                raise DataError(f"There is no picture in {path}.", hint="\n".join(left.told()) or None)
            return [(str(inner), inner) for inner in sorted(inside)]
        if not os.path.exists(path):
            scheme, url, _ = named.partition("://")
            if url and self.modality == "image":
                raise DataError(
                    f"An item is a URL ({scheme}://...); items are files of this machine.",
                    hint="Download it first.",
                )
            beside = os.listdir(path.parent) if os.path.isdir(path.parent) else []
            guess = did_you_mean(path.name, beside)
            raise DataError(f"There is no file {path}.{' ' + guess if guess else ''}")
        return [(named, path)]

    def draw(self, policy: str, count: int, *, seed: int, mirror: bool) -> Tensor | None:
        """Random augmentation parameters for ``count`` items, one row each; None where nothing is drawn.

        Drawn for all items at once, so that an item's augmentation doesn't depend on its batch.
        ``mirror`` allows left-right flips, which change the label of some data (digits, text in pictures).
        """
        if policy != "none":
            raise ValueError(f'{type(self).__name__} has no augmentation policy "{policy}"')
        return None

    def augment(self, batch: Tensor, policy: str, draws: Tensor) -> Tensor:
        """A batch of encoded items, each augmented by its row of ``draws``; shape and dtype stay."""
        raise ValueError(f'{type(self).__name__} has no augmentation policy "{policy}"')

    def move(self, maps: Tensor, policy: str, draws: Tensor, *, unknown: int) -> Tensor:
        """Maps of encoded items, uint8 (B, S, S), moved as `augment` moves the items.

        Args:
            maps: of class indices, of any side.
            policy: as `augment` takes it.
            draws: likewise.
            unknown: what stands where something is moved in from outside the item.
        """
        raise ValueError(f"{type(self).__name__} doesn't know how {policy} moves maps")

    def place(self, points: Tensor, policy: str, draws: Tensor) -> Tensor:
        """Where points (B, N, 2) of encoded items, x and y as shares of the side, are after `augment`.

        Args:
            points: may come to lie outside of 0..1.
            policy: as `augment` takes it.
            draws: likewise.
        """
        raise ValueError(f"{type(self).__name__} doesn't know how {policy} moves points")

    def example(self, count: int) -> Tensor:
        """``count`` encoded items of noise, for tracing and for counting operations."""
        generator = torch.Generator().manual_seed(0)
        top = 65536 if self.dtype == "uint16" else 256
        noise = torch.randint(0, top, (count, *self.shape), generator=generator)
        return noise.to(getattr(torch, np.dtype(self.dtype).name))
