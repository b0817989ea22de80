"""What a task says of predictions: how outputs are calibrated, decoded and told."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from tlsearch.contracts.figure import Figure
from tlsearch.contracts.target import TargetSpec


class Predictions(abc.ABC):
    """How the outputs of a task's models are used; `tlsearch.contracts.Task` inherits it."""

    per_name: ClassVar[str] = "recall"
    """What the second part of `evaluate` is called."""
    probabilities: ClassVar[bool] = False
    """Whether `decode` gives probabilities of the spec's names: reports show their confusion."""
    unreadable: ClassVar[Mapping[str, Any]] = {}
    """What `predict` tells, by name, of an item that can't be read."""
    answer_types: ClassVar[Mapping[str, Any]] = {}
    """Types of what `predict` tells, by the same names; any value, where a name is missing here."""

    def unmirrored(self, outputs: Tensor) -> Tensor:
        """Outputs (B, ...) of mirrored items as those of the items: the same, unless they are maps."""
        return outputs

    def average(self, outputs: Tensor) -> Tensor:
        """One prediction (B, ...) of several (B, n, ...) of the same items: networks, or views."""
        return outputs.mean(dim=1)

    @property
    def calibrates(self) -> bool:
        """Whether it has a `calibrate` of its own, for which outputs of all held-out items are kept."""
        return type(self).calibrate is not Predictions.calibrate

    def scale(self, outputs: Tensor, targets: Tensor) -> float:
        """What outputs (N, ...) are multiplied by before those of another recipe are averaged with them.

        An overconfident recipe would dominate a mean; held-out items show it.
        """
        return 1.0

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """What a model is to remember so that its predictions mean what they say, as JSON holds it.

        Args:
            outputs: (N, ...) of held-out items.
            targets: theirs.
        """
        return {}

    def rebalance(
        self, outputs: Tensor, targets: Tensor, calibration: Mapping[str, Any], metric: str
    ) -> Mapping[str, Any]:
        """What `decode` is to do besides so that a metric is served, to stand in the calibration; or nothing.

        Args:
            outputs: (N, ...) of held-out items.
            targets: theirs.
            calibration: what `calibrate` gave for them.
            metric: the study's.
        """
        return {}

    def check_calibration(
        self, outputs: Tensor, targets: Tensor, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """What calibration does on items that it wasn't fitted on, to stand beside it."""
        return {}

    def decode(
        self, outputs: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Calibrated outputs, and what they mean in the user's terms (probabilities); exports trace this."""
        return outputs, outputs

    @abc.abstractmethod
    def predict(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """A prediction as JSON holds it, of one item's second part of `decode`."""

    def in_pixels(self, prediction: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
        """A prediction of a picture of that width and height, with places told in its pixels, if any are."""
        return prediction

    def marked(self, picture: Image, prediction: Mapping[str, Any], spec: TargetSpec) -> Image:
        """A picture with the places of a prediction in its pixels drawn onto it, if it tells any."""
        return picture

    def shortened(self, prediction: Mapping[str, Any], top: int) -> Mapping[str, Any]:
        """A prediction with its ``top`` likeliest answers alone, where it lists several; else as it is."""
        return prediction

    abstains: ClassVar[bool] = False
    """Whether predictions come with a verdict: sure, unsure, or none of what it knows; see `doubt`."""

    def doubt(self, decoded: Tensor, targets: Tensor, *, missed: float) -> Mapping[str, Any]:
        """What `unsure` goes by, as JSON holds it; it stands in the calibration, under ``abstention``.

        Args:
            decoded: second part of `decode` (N, ...) of held-out items.
            targets: theirs.
            missed: share of items that may be told wrongly as sure.
        """
        return {}

    def unsure(self, decoded: Tensor, calibration: Mapping[str, Any]) -> Tensor:
        """Of which items (N,) the answer may well be another; exports trace this."""
        return torch.zeros(len(decoded), dtype=torch.bool)

    outputs: ClassVar[tuple[str, str]] = ("outputs", "values")
    """What exports call the two parts of `decode`."""
    meaning: ClassVar[str] = "values are in the units of the targets"
    """What an export's outputs mean, as the last step of how to use it."""
    pipeline: ClassVar[str] = "other"
    """What a model card says that models do, in the words of the Hugging Face hub."""

    limits: ClassVar[str] = "It predicts a number for any image, whatever the image shows."
    """What it can't know, as a sentence for a model's card."""

    def does(self, spec: TargetSpec) -> str:
        """What a model does with an image, as a sentence for its card."""
        return f"Predicts {', '.join(spec.names)} of an image."

    def trust(self, calibration: Mapping[str, Any]) -> str:
        """How far predictions can be trusted, as a sentence for a model's card, or empty."""
        return ""

    def beside(self, spec: TargetSpec, calibration: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the description beside an export is to tell of the outputs, as JSON holds it."""
        return {}

    def disagreement(
        self, expected: NDArray[Any], found: NDArray[Any], spec: TargetSpec, *, allowed: float
    ) -> tuple[float, str]:
        """How far apart two decodings (N, ...) of the same items are, and what is wrong; empty if they agree.

        Args:
            expected: of the model.
            found: of its export.
            spec: what the targets are.
            allowed: by how much a value may be off.
        """
        difference = float(abs(found - expected).max())
        wrong = f"a value is off by {difference:.2g} (allowed: {allowed:g})"
        return difference, wrong if difference > allowed else ""

    def answers(self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]) -> list[Any]:
        """The answers of N items in short, such as their classes, of the second part of `decode`."""
        return decoded.tolist()

    def figures(
        self, decoded: NDArray[Any], targets: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Sequence[Figure]:
        """What a report shows of a model at work on held-out items.

        Args:
            decoded: second part of `decode` (N, ...).
            targets: as encoded (N, ...).
            spec: what the targets are.
            calibration: the model's.
        """
        return ()

    def say(self, prediction: Mapping[str, Any], *, top: int) -> str:
        """A prediction in a few words: at most the ``top`` likeliest answers, where there are several."""
        told = {name: prediction[name] for name in self.unreadable}
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in told.items()
        )

    def cells(self, prediction: Mapping[str, Any], spec: TargetSpec) -> list[tuple[str, Any]]:
        """A prediction as columns of a table: headings, the same for each item, and values."""
        return [(name, prediction[name]) for name in self.unreadable]
