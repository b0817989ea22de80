"""A trained model that predicts from raw items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import Backbone, InputSpec, TargetSpec, Task
from tlsearch.contracts.images import ImageInput
from tlsearch.contracts.verdict import VERDICTS
from tlsearch.errors import DataError
from tlsearch.items import items_of, missing
from tlsearch.models import abstention
from tlsearch.models.ensemble import Ensemble
from tlsearch.models.manifest import Manifest, temperature_of
from tlsearch.models.prediction import Prediction

BATCH = 64
Network = Backbone | Ensemble


class Model:
    """A loaded bundle that predicts from raw items: paths, arrays, whatever its backbone encodes.

    A ``str`` is the path of an image.
    """

    def __init__(
        self,
        network: Network,
        inputs: InputSpec,
        manifest: Manifest,
        folder: Path,
        familiar: abstention.Familiar | None = None,
    ) -> None:
        self.network = network
        self.inputs = inputs
        self.manifest = manifest
        self.folder = folder
        self.familiar = familiar

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.manifest.classes

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return registry.task(self.manifest.task)

    @property
    def target_spec(self) -> TargetSpec:
        """What it puts out."""
        return self.manifest.target_spec

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities; 1 where nothing was calibrated."""
        return temperature_of(self.manifest.calibration)

    @property
    def silent(self) -> str:
        """Why it can't say that it doesn't know; empty where it can, or isn't to."""
        return abstention.why_not(self.task, self.manifest, self.familiar)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network's outputs mean: calibrated class probabilities (N, classes), or the task's own."""
        _, told = self.task.decode(torch.from_numpy(logits), self.target_spec, self.manifest.calibration)
        return np.asarray(told.numpy(), dtype=np.float32)

    def logits(self, items: Any) -> NDArray[np.float32]:
        """Logits (N, classes) of raw items, as the network gives them: not divided by the temperature.

        Args:
            items: one or many, of any type that `tlsearch.items.items_of` takes.

        Raises:
            DataError: items are broken, which are named, or aren't items.
        """
        found = items_of(items, modality=self.inputs.modality)
        if lacking := missing(found):
            raise DataError(_of(lacking, len(found.values)))
        _, logits, errors = self.readable(found.values)
        if errors:
            told = [f"{found.names[position]}: {why}" for position, why in errors.items()]
            raise DataError(_of(told, len(found.values)))
        return logits

    def predict_proba(self, items: Any) -> NDArray[np.float32]:
        """Class probabilities (N, classes) of raw items, as `logits` takes them, calibrated where it is."""
        return self.probabilities(self.logits(items))

    def predict(self, items: Any) -> list[Any]:
        """The answer to each raw item, as `logits` takes them: its most probable class, or a number.

        A list also of one.
        """
        decoded = self.probabilities(self.logits(items))
        return self.task.answers(decoded, self.target_spec, self.manifest.calibration)

    def readable(
        self, items: Sequence[object], network: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[list[int], NDArray[np.float32], dict[int, str]]:
        """Positions of the items that can be read, their logits, and what is wrong with the others.

        Another ``network`` in the place of the model's own may put out whatever has a row for each item.
        """
        kept: list[int] = []
        errors: dict[int, str] = {}
        parts: list[NDArray[np.float32]] = []
        for start, batch in _batches(items, min(BATCH, self.task.at_once)):
            encoded: list[NDArray[Any]] = []
            for position, item in enumerate(batch, start):
                try:
                    encoded.append(self.encode(item))
                    kept.append(position)
                except DataError as error:
                    errors[position] = error.message
            if encoded:
                parts.append(self.forward(np.stack(encoded), network))
        nothing = np.zeros((0, len(self.classes)), np.float32)
        return kept, np.concatenate(parts) if parts else nothing, errors

    def describe(self, items: Any, names: Sequence[str] | None = None) -> Iterator[Prediction]:
        """A `Prediction` for each item, in order; a broken one gets its error and ends nothing.

        Items are called by ``names``; without these a path or text by itself, another by its number.
        """
        if names is None:
            given = items_of(items, modality=self.inputs.modality)
            items, names = given.values, given.names
        for start, batch in _batches(items, min(BATCH, self.task.at_once)):
            kept, found, errors = self.readable(batch, self.look)
            told = dict(zip(kept, self.told(found), strict=True)) if kept else {}
            for position in range(len(batch)):
                name = names[start + position]
                if position in errors:
                    yield Prediction({"item": name, **self.task.unreadable, "error": errors[position]})
                else:
                    placed = self.placed(told[position], batch[position])
                    yield Prediction({"item": name, **placed, "error": None})

    def placed(self, told: Mapping[str, Any], item: object) -> Mapping[str, Any]:
        """A prediction of an item, with places in the pixels of its picture where it tells any."""
        task = self.task
        if type(task).in_pixels is Task.in_pixels or not isinstance(self.inputs, ImageInput):
            return told
        return task.in_pixels(told, self.inputs.picture(self._item(item)).size)

    def look(self, inputs: Tensor) -> Tensor:
        """The network's outputs, with the distance to what it knows as one more column where it has that."""
        if self.familiar is None:
            outputs: Tensor = self.network(inputs)
            return outputs
        return self.familiar.look(self.network, inputs)

    def outputs_of(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's own outputs among what `look` found."""
        return found if self.familiar is None else found[:, :-1]

    def apart(
        self, found: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int64] | None]:
        """What `look` found of N items as decoded outputs, distances (N,) and numbers of `VERDICTS` (N,).

        Distances are multiples of the limit; they and verdicts are None where the model has none.
        """
        distances = None if self.familiar is None else found[:, -1]
        decoded = self.probabilities(self.outputs_of(found))
        if not abstention.gives_verdicts(self.manifest):
            return decoded, None, None
        far = None if distances is None else torch.from_numpy(distances)
        calibration = self.manifest.calibration
        given = abstention.verdicts(self.task, torch.from_numpy(decoded), far, calibration)
        return decoded, distances, given.numpy()

    def told(self, found: NDArray[np.float32]) -> list[Mapping[str, Any]]:
        """Predictions of N items as JSON holds them, of what `look` found."""
        decoded, distances, verdicts = self.apart(found)
        told: list[Mapping[str, Any]] = []
        for at, row in enumerate(decoded):
            one = dict(self.task.predict(row, self.target_spec, self.manifest.calibration))
            if verdicts is not None:
                one["verdict"] = VERDICTS[int(verdicts[at])]
            if distances is not None:
                one["distance"] = float(distances[at])
            told.append(one)
        return told

    def encode(self, item: object) -> NDArray[Any]:
        """One raw item as the array that `forward` takes a stack of.

        Raises:
            DataError: it is broken.
        """
        return self.inputs.encode(self._item(item))

    def _item(self, item: object) -> object:
        """An item as inputs take it: people name pictures by strings; of texts, strings are the items."""
        by_name = isinstance(item, str) and self.inputs.modality == "image"
        return Path(str(item)) if by_name else item

    def forward(
        self, encoded: NDArray[Any], network: Callable[[Tensor], Tensor] | None = None
    ) -> NDArray[np.float32]:
        """Logits (N, classes) of encoded items (N, *shape)."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            logits = (network or self.network)(self.inputs.to_model(torch.from_numpy(encoded).to(device)))
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)


def _of(told: Sequence[str], count: int) -> str:
    more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
    return f"{len(told)} of {count} items can't be read: {'; '.join(told[:5])}{more}"


def _batches(items: Sequence[object], size: int) -> Iterator[tuple[int, list[object]]]:
    for start in range(0, len(items), size):
        yield start, [items[index] for index in range(start, min(start + size, len(items)))]
