"""Tasks whose targets are places of the image, such as masks: they see feature maps, not pooled features."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tlsearch.contracts.inputs import InputSpec
from tlsearch.contracts.layers import Level
from tlsearch.contracts.target import TargetSpec
from tlsearch.contracts.task import Scores, Task
from tlsearch.records import Scalar


class PlaceTask(Task):
    """A task that tells where on a picture something is.

    Targets and outputs are of the whole picture, squeezed to a square. Augmentation moves targets as it moves
    pictures.
    """

    at_once = 16
    resize = "squash"
    fixed: ClassVar[Mapping[str, Scalar]] = {"batch_size": 16}  # each item teaches at every place
    least_stop_items = 500  # what is to be found may stand on a few of them
    shown_on: ClassVar[str] = "picture"
    """What shows a class, in words."""
    nothing: ClassVar[str] = ""
    """What `strata` calls items that show none of the classes, where no split need have one."""

    @abc.abstractmethod
    def map_head(self, levels: Sequence[Level], spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """A fresh head: feature maps (B, channels, side, side) of each level, fine to coarse, to outputs."""

    def head(self, width: int, spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """None: pooled features don't tell places.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} takes feature maps, which pooled features are none of")

    @abc.abstractmethod
    def move(self, targets: Tensor, inputs: InputSpec, policy: str, draws: Tensor) -> Tensor:
        """Encoded targets (B, ...), each moved as ``inputs.augment`` moves its picture by the same draws."""

    def evaluate(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Scores, Scores]:
        """The metrics, and one for each class."""
        return self.evaluate_batches([(outputs, targets)], spec, calibration)

    def evaluate_batches(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        spec: TargetSpec,
        calibration: Mapping[str, Any],
    ) -> tuple[Scores, Scores]:
        """The same of outputs and targets that come a batch at a time."""
        evaluator = self.evaluator(spec)
        for outputs, targets in batches:
            evaluator.update(outputs, targets)
        return evaluator.compute(), evaluator.by_name(spec)

    def findings(self, counts: Mapping[str, Mapping[str, int]], metric: str) -> Mapping[str, Any]:
        """Classes that nothing in a split shows."""
        known = sorted({name for split in counts.values() for name in split} - {self.nothing})
        lacking = [[split, name] for split, own in counts.items() for name in known if not own.get(name)]
        return {"lacking": lacking}

    def remarks(self, findings: Mapping[str, Any]) -> list[str]:
        """The same in words."""
        return [
            f'no {self.shown_on} of {split} shows "{name}": scores there say nothing of it'
            for split, name in findings.get("lacking", [])
            if split != "stop"
        ]

    @abc.abstractmethod
    def laid_over(
        self, picture: Image.Image, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Image.Image:
        """A picture with an item's second part of `decode`, or its target, shown on it, as RGB."""


class MapTask(PlaceTask):
    """A task with a target for each place of a picture.

    Encoded targets are uint8 (N, S, S) and outputs (N, C, S, S), whatever a backbone's image size is.
    """

    unknown: ClassVar[int] = 255
    """What a target's pixel holds where nothing is known of it: such pixels teach and measure nothing."""

    def move(self, targets: Tensor, inputs: InputSpec, policy: str, draws: Tensor) -> Tensor:
        """Maps moved pixel by pixel."""
        return inputs.move(targets, policy, draws, unknown=self.unknown)

    @abc.abstractmethod
    def drawn(self, decoded: NDArray[Any], spec: TargetSpec) -> Image.Image:
        """A map (S, S), of the second part of `decode` or a target, as a picture in the masks' own values."""

    def unmirrored(self, outputs: Tensor) -> Tensor:
        """Maps mirrored back."""
        return outputs.flip(-1)
