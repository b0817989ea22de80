"""Each pixel is of one class: logits (N, classes, S, S), and class indices (N, S, S) with 255 for unknown."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import (
    Evaluator,
    Figure,
    Level,
    LinearRecipe,
    MapTask,
    Metric,
    Recipe,
    Scores,
    Strata,
    TargetSpec,
    masks,
)
from tlsearch.errors import DataError
from tlsearch.tasks import mask_figures
from tlsearch.tasks.pyramid_decoder import PyramidDecoder

MEAN_IOU, DICE, PIXEL_ACCURACY, LOG_LOSS = "mean_iou", "dice", "pixel_accuracy", "log_loss"
CROSS_ENTROPY, WITH_DICE = "cross_entropy", "cross_entropy_dice"
"""Names of the losses; the second has Dice's part as well."""
EXACT = 5e-3
"""How far a share of pixels, measured again, may be off: at the edges two classes are nearly equal."""
RARE = 0.01
"""Share of all known pixels below which a class is worth a word: pixel accuracy hides it."""


class MaskEvaluator(Evaluator):
    """Counts pixels by their class and the one that was predicted: no logits are kept."""

    def __init__(self, classes: int) -> None:
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.entropy = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take logits (B, classes, S, S) and masks (B, S, S)."""
        classes = len(self.confusion)
        outputs, targets = outputs.detach().cpu().float(), targets.cpu().long()
        self.entropy += float(
            functional.cross_entropy(outputs, targets, ignore_index=masks.UNKNOWN, reduction="sum")
        )
        predicted = outputs.argmax(dim=1)
        known = targets != masks.UNKNOWN
        pairs = targets[known] * classes + predicted[known]
        self.confusion += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def compute(self) -> Scores:
        """All metrics, of all pixels together; the means are over the classes that occur or are predicted."""
        right, actual, called = self._counts()
        present = (actual + called) > 0
        iou, dice = right / (actual + called - right), 2 * right / (actual + called)
        return {
            MEAN_IOU: float(iou[present].mean()) if bool(present.any()) else 0.0,
            DICE: float(dice[present].mean()) if bool(present.any()) else 0.0,
            PIXEL_ACCURACY: float(right.sum() / actual.sum().clamp(min=1)),
            LOG_LOSS: self.entropy / max(1.0, float(actual.sum())),
        }

    def by_name(self, spec: TargetSpec) -> dict[str, float]:
        """Intersection over union of each class that occurs or is predicted."""
        right, actual, called = self._counts()
        rows = zip(spec.names, right.tolist(), (actual + called).tolist(), strict=True)
        return {name: same / (both - same) for name, same, both in rows if both}

    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        confusion = self.confusion.double()
        return confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)


class Segmentation(MapTask):
    """A mask for each picture; cross-entropy with Dice's loss, a decoder on the backbone's feature maps."""

    metrics = (
        Metric(MEAN_IOU, tolerance=lambda items: EXACT, title="mean IoU"),
        *(Metric(name, tolerance=lambda items: EXACT) for name in (DICE, PIXEL_ACCURACY)),
        Metric(LOG_LOSS, minimize=True, unit="nats", tolerance=lambda items: EXACT, slack=0.05),
    )
    tie_breaker = LOG_LOSS  # before the first rare pixel is found, it alone tells epochs apart
    unknown = masks.UNKNOWN
    shown_on = "mask"
    losses_by_name = (WITH_DICE, CROSS_ENTROPY)
    smooths = True
    examples = tuple(np.tri(8, 8, number % 5 - 2, dtype=np.uint8) for number in range(42))

    # What targets are

    def describe(self, targets: Sequence[Any] | NDArray[Any], columns: Sequence[str] = ()) -> TargetSpec:
        """The values that occur in masks: files, or arrays (H, W) of whole numbers.

        Raises:
            DataError: some are no masks, or nothing can be learned of them.
        """
        if any(not isinstance(target, np.ndarray | Path) for target in targets):
            raise DataError(
                "Targets are no masks, but numbers or words.",
                hint="Segmentation learns `source: masks`: pictures with a mask for each.",
            )
        understood = masks.understand(list(targets), masks.MaskWords())
        for position, why in understood.broken.items():
            raise DataError(f"item {position}: {why}")
        return understood.spec

    def encode(self, targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
        """Class indices (N, S, S), uint8, 255 where nothing is known.

        Raises:
            DataError: one is no mask, or has a value that no class has.
        """
        return masks.stacked([masks.code(target, spec) for target in targets], spec)

    def plain(self, target: Any, spec: TargetSpec) -> str:
        """The mask's own values, packed."""
        return masks.text(np.asarray(target, dtype=np.uint8), spec)

    def identity(self, target: Any, spec: TargetSpec) -> str:
        """A hash of the mask."""
        return "mask " + hashlib.sha256(self.plain(target, spec).encode()).hexdigest()[:16]

    def shown(self, target: Any, spec: TargetSpec) -> str:
        """The classes that a mask shows."""
        kinds = np.flatnonzero(np.bincount(np.ravel(target), minlength=256)[: len(spec.names)])
        return ", ".join(spec.names[kind] for kind in kinds) or "nothing known"

    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """The classes that a mask shows any pixel of."""
        unlabelled = len(spec.names)
        of = []
        for target in targets:
            kinds = np.flatnonzero(np.bincount(np.ravel(target), minlength=256)[:unlabelled])
            of.append(tuple(kinds.tolist()) or (unlabelled,))
        names = spec.names
        if any(kinds == (unlabelled,) for kinds in of):
            names = (*names, "nothing known")
        return Strata(of, names, "class", "classes", required=False)

    # How they are learned

    def map_head(self, levels: Sequence[Level], spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """A decoder of a few convolutions."""
        return PyramidDecoder(levels, len(spec.names), size=int(spec.facts["size"]), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Mean cross-entropy of the known pixels and Dice's loss (Milletari et al. 2016, arXiv:1606.04797).

        The second is of the classes that the batch shows, each alike however few pixels it has; with the
        recipe's ``loss`` cross_entropy it is left out.
        """
        wanted = targets.long()
        known = (wanted != masks.UNKNOWN).unsqueeze(1)
        wanted = wanted.unsqueeze(1).where(known, 0)
        logs = outputs.float().log_softmax(dim=1)
        right = logs.gather(1, wanted)  # of the class that each pixel is of
        count, smoothing = known.sum().clamp(min=1), recipe.label_smoothing
        entropy = -(right * known).sum() / count
        if smoothing:
            every = -(logs.mean(dim=1, keepdim=True) * known).sum() / count
            entropy = (1 - smoothing) * entropy + smoothing * every
        if recipe.loss == CROSS_ENTROPY:
            return entropy
        classes = outputs.shape[1]
        pixels = torch.bincount(wanted[known], minlength=classes)
        both = outputs.new_zeros(classes, dtype=torch.float32)
        both = both.index_add(0, wanted.flatten(), (right.exp() * known).flatten())
        either = (logs.exp() * known).sum(dim=(0, 2, 3)) + pixels
        present = pixels > 0
        return entropy + (1 - 2 * both / either.clamp(min=1e-6))[present].sum() / present.sum().clamp(min=1)

    def columns(self, targets: Tensor, spec: TargetSpec) -> Tensor:
        """The share of each class in a mask (N, classes)."""
        rows = [torch.bincount(one.flatten().long(), minlength=256)[: len(spec.names)] for one in targets]
        return torch.stack(rows).double() / targets[0].numel()

    # How good it is

    def constant(self, targets: NDArray[Any], spec: TargetSpec) -> tuple[str, Tensor]:
        """Every pixel of the commonest class; logits are the classes' shares, one pixel of each added."""
        # Mask by mask: NumPy counts in eight times the memory.
        pixels = sum(np.bincount(np.ravel(mask), minlength=256) for mask in targets)
        counts = np.asarray(pixels)[: len(spec.names)] + 1
        shares = torch.from_numpy(np.log(counts / counts.sum()))
        words = f'all of every picture is "{spec.names[counts.argmax()]}", the commonest class'
        return words, shares[None, :, None, None].expand(-1, -1, *targets.shape[1:])

    def evaluator(self, spec: TargetSpec) -> MaskEvaluator:
        """Of mean IoU, Dice and pixel accuracy."""
        return MaskEvaluator(len(spec.names))

    per_name = "intersection over union"

    # How it is used

    unreadable = {"shares": {}, "mask": None}
    answer_types = {"shares": dict[str, float], "mask": str | None}
    outputs = ("logits", "masks")
    meaning = "masks hold the index of a class for each pixel of the square"
    limits = "It knows no other classes: every pixel is put into one of the above."
    pipeline = "image-segmentation"

    def average(self, outputs: Tensor) -> Tensor:
        """Logits (B, classes, S, S) whose softmax is the mean of that of logits (B, n, classes, S, S)."""
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        return outputs.softmax(dim=2).mean(dim=1).clamp(min=1e-12).log()

    def decode(
        self, outputs: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, classes, S, S), and the index of the likeliest class (N, S, S), uint8."""
        return outputs, outputs.argmax(dim=1).to(torch.uint8)

    def predict(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``shares`` of the picture by class; ``mask``: a palette PNG (S, S) of class indices, in base64."""
        coded = np.asarray(decoded).astype(np.uint8)
        counts = np.bincount(coded.ravel(), minlength=len(spec.names))
        shares = {name: round(int(n) / coded.size, 6) for name, n in zip(spec.names, counts, strict=True)}
        file = io.BytesIO()
        mask_figures.coloured(coded).save(file, "PNG")
        return {"shares": shares, "mask": base64.b64encode(file.getvalue()).decode()}

    def drawn(self, decoded: NDArray[Any], spec: TargetSpec) -> Image.Image:
        """A mask as an image whose pixels are the values that the masks of the data have."""
        return mask_figures.drawn(np.asarray(decoded).astype(np.uint8), spec)

    def laid_over(
        self, picture: Image.Image, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Image.Image:
        """A picture with every class but the first in its colour, half transparent."""
        return mask_figures.laid_over(picture, np.asarray(decoded).astype(np.uint8))

    def disagreement(
        self, expected: NDArray[Any], found: NDArray[Any], spec: TargetSpec, *, allowed: float
    ) -> tuple[float, str]:
        """The share of pixels of another class."""
        share = float((expected != found).mean())
        return share, f"{share:.2%} of the pixels are of another class" if share > allowed else ""

    def answers(self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]) -> list[Any]:
        """Class indices (S, S), an array for each item."""
        return list(decoded.astype(np.uint8))

    def does(self, spec: TargetSpec) -> str:
        """What it marks."""
        return f"Predicts for each pixel of an image which of these it is: {', '.join(spec.names)}."

    def beside(self, spec: TargetSpec, calibration: Mapping[str, Any]) -> Mapping[str, Any]:
        """The masks' own ``values`` by class index, and the side of the square that masks are of."""
        return {"values": list(spec.facts["values"]), "mask_size": spec.facts["size"]}

    def say(self, prediction: Mapping[str, Any], *, top: int) -> str:
        """The shares of the classes, the largest first."""
        shares = sorted(prediction["shares"].items(), key=lambda pair: -pair[1])
        return ", ".join(f"{name} {100 * share:.1f}%" for name, share in shares[: max(top, 3)] if share)

    def cells(self, prediction: Mapping[str, Any], spec: TargetSpec) -> list[tuple[str, Any]]:
        """The share of each class."""
        return [(f"share of {name}", prediction["shares"].get(name)) for name in spec.names]

    def figures(
        self, decoded: NDArray[Any], targets: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Sequence[Figure]:
        """Each class's intersection over union, and of each picture."""
        return mask_figures.figures(decoded.astype(np.uint8), targets, spec)
