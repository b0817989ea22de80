"""Objects and where they are: outputs (N, classes + 5, S, S), boxes (N, M, 5) with class -1 for none."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tlsearch.contracts import (
    Figure,
    InputSpec,
    Level,
    LinearRecipe,
    Metric,
    PlaceTask,
    Recipe,
    Strata,
    TargetSpec,
    boxes,
)
from tlsearch.errors import DataError
from tlsearch.tasks import box_figures, box_head, box_scores, box_targets

EXACT = 0.01
"""How far average precision, measured again, may be off: scores that are nearly equal change places."""
VISIBLE = 0.25
"""Share of a box that must still be in the picture after it was moved, for it to be one."""


class Detection(PlaceTask):
    """Boxes of objects with their classes; one stage, without anchors, on the backbone's feature maps."""

    metrics = (
        Metric(box_scores.MAP, tolerance=lambda items: EXACT, title="mean average precision (50 to 95)"),
        Metric(box_scores.MAP_50, tolerance=lambda items: EXACT, title="mean average precision (50)"),
        Metric(box_scores.LOSS, minimize=True, unit="nats", tolerance=lambda items: EXACT, slack=0.1),
    )
    tie_breaker = box_scores.LOSS  # before the first object is found, it alone tells epochs apart
    nothing = "nothing"
    examples = tuple(
        [
            {"label": "ab"[at % 2], "box": [0.1 * at, 0.05 * (number % 8), 0.1 * at + 0.3, 0.5]}
            for at in range(number % 4)
        ]
        for number in range(42)
    )

    # What targets are

    def describe(self, targets: Sequence[Any] | NDArray[Any], columns: Sequence[str] = ()) -> TargetSpec:
        """The classes that occur in lists of boxes, each a mapping with ``label`` and ``box`` (shares).

        Raises:
            DataError: some are no lists of boxes, or there is no box at all.
        """
        if not all(boxes.is_plain(target) for target in targets):
            raise DataError(
                "Targets are no boxes, but numbers or words.",
                hint="Detection learns `source: boxes`: pictures with boxes in VOC, COCO or YOLO files.",
            )
        names = sorted({str(one["label"]) for target in targets for one in target})
        return boxes.described(names, [boxes.coded(target, names) for target in targets])

    def encode(self, targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
        """Boxes (N, M, 5): class index, left, top, right, bottom as shares of the picture; -1 for no box.

        Raises:
            DataError: one is no list of boxes, or is of a class that isn't known.
        """
        return boxes.stacked(
            [boxes.coded(target, spec.names) for target in targets], most=int(spec.facts["most"])
        )

    def plain(self, target: Any, spec: TargetSpec) -> list[dict[str, Any]]:
        """``label`` and ``box`` of each object."""
        return boxes.plain(target, spec)

    def identity(self, target: Any, spec: TargetSpec) -> str:
        """A hash of the boxes."""
        told = json.dumps(self.plain(target, spec))
        return "boxes " + hashlib.sha256(told.encode()).hexdigest()[:16]

    def shown(self, target: Any, spec: TargetSpec) -> str:
        """How many objects of each class."""
        return _counted(one["label"] for one in self.plain(target, spec))

    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """The classes of an item's boxes."""
        empty = len(spec.names)
        of = [tuple(sorted({int(kind) for kind in one[:, 0] if kind >= 0})) or (empty,) for one in targets]
        names = (*spec.names, self.nothing) if (empty,) in of else spec.names
        return Strata(of, names, "class", "classes", required=False)

    # How they are learned

    def map_head(self, levels: Sequence[Level], spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """A pyramid, and two towers of a few convolutions."""
        usual, small = float(spec.facts["usual"]), float(spec.facts["small"])
        return box_head.BoxHead(levels, len(spec.names), usual=usual, small=small, dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Focal loss of classes, generalized IoU loss of boxes, cross-entropy of centreness."""
        return box_targets.loss(outputs, targets)

    def move(self, targets: Tensor, inputs: InputSpec, policy: str, draws: Tensor) -> Tensor:
        """Boxes around their moved corners; what has left the picture for the most part is none any more."""
        if policy == "none":
            return targets
        left, top, right, bottom = targets[..., 1:].unbind(dim=-1)
        corners = torch.stack([left, top, right, top, left, bottom, right, bottom], dim=-1)
        count = targets.shape[1]
        moved = inputs.place(corners.reshape(len(targets), 4 * count, 2), policy, draws)
        moved = moved.reshape(len(targets), count, 4, 2)
        low, high = moved.amin(dim=2), moved.amax(dim=2)
        area = (high - low).prod(dim=-1)
        low, high = low.clamp(0, 1), high.clamp(0, 1)
        seen = (high - low).prod(dim=-1) > VISIBLE * area
        kinds = torch.where(seen, targets[..., 0], torch.full_like(targets[..., 0], boxes.NOTHING))
        return torch.cat([kinds[..., None], low, high], dim=-1).to(targets.dtype)

    def columns(self, targets: Tensor, spec: TargetSpec) -> Tensor:
        """How many objects of each class (N, classes)."""
        kinds = torch.arange(len(spec.names), device=targets.device)
        return (targets[..., :1] == kinds).sum(dim=1).double()

    # How good it is

    def evaluator(self, spec: TargetSpec) -> box_scores.BoxEvaluator:
        """Of mean average precision."""
        return box_scores.BoxEvaluator(spec.names)

    per_name = "average precision at overlap 0.5"

    # How it is used

    unreadable = {"objects": None}
    answer_types = {"objects": list[dict[str, Any]] | None}
    outputs = ("raw", "candidates")
    meaning = (
        "candidates are rows of class, left, top, right, bottom (shares of the picture) and score, the "
        "surest first; of rows of a class that overlap, only the first counts"
    )
    limits = "It knows no other classes, and finds no object that is much smaller than those it learned from."
    pipeline = "object-detection"

    def average(self, outputs: Tensor) -> Tensor:
        """One of several outputs (B, n, C + 5, S, S): mean probabilities, as logits, and mean distances."""
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        shares = outputs[:, :, :-4].sigmoid().mean(dim=1).clamp(1e-6, 1 - 1e-6)
        return torch.cat([shares.logit(), outputs[:, :, -4:].mean(dim=1)], dim=1)

    def unmirrored(self, outputs: Tensor) -> Tensor:
        """Outputs of mirrored pictures mirrored back: left and right change places."""
        mirrored = outputs.flip(-1)
        left, top, right, bottom = mirrored[:, -4:].unbind(dim=1)
        return torch.cat([mirrored[:, :-4], torch.stack([right, top, left, bottom], dim=1)], dim=1)

    def decode(
        self, outputs: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Outputs, and the likeliest classes and boxes (N, K, 6), of which several may be of one object."""
        return outputs, box_scores.candidates(outputs)

    def predict(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``objects``, the surest first: ``label``, ``score``, ``box`` as shares of the picture's sides."""
        least = float(calibration.get("threshold", box_scores.THRESHOLD))
        return {
            "objects": [
                {
                    "label": spec.names[int(row[0])],
                    "score": round(float(row[5]), 4),
                    "box": [round(float(share), boxes.DIGITS) for share in row[1:5]],
                }
                for row in box_scores.objects(decoded, least=least)
            ]
        }

    def in_pixels(self, prediction: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
        """A prediction with boxes in pixels of a picture of that width and height."""
        scale = (*size, *size)
        objects = [
            {**one, "box": [round(share * side, 1) for share, side in zip(one["box"], scale, strict=True)]}
            for one in prediction["objects"]
        ]
        return {**prediction, "objects": objects}

    def marked(self, picture: Image.Image, prediction: Mapping[str, Any], spec: TargetSpec) -> Image.Image:
        """A picture with the objects of a prediction in its pixels drawn onto it."""
        return box_figures.drawn(picture, prediction["objects"], spec.names)

    def laid_over(
        self, picture: Image.Image, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Image.Image:
        """A picture with an item's objects, or its true ones, drawn onto it."""
        told = self.in_pixels(self.predict(decoded, spec, calibration), picture.size)
        return self.marked(picture, told, spec)

    def shortened(self, prediction: Mapping[str, Any], top: int) -> Mapping[str, Any]:
        """The ``top`` surest objects alone."""
        return {**prediction, "objects": prediction["objects"][:top]}

    def disagreement(
        self, expected: NDArray[Any], found: NDArray[Any], spec: TargetSpec, *, allowed: float
    ) -> tuple[float, str]:
        """How far an object's score or box is from the one of its class that is nearest."""
        worst = 0.0
        for one, other in zip(expected, found, strict=True):
            for here, there in ((one, other), (other, one)):
                worst = max([worst, *(_nearest(row, there) for row in box_scores.objects(here, least=0.05))])
        return worst, f"an object's box or score is off by {worst:.2g}" if worst > allowed else ""

    def answers(self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]) -> list[Any]:
        """The objects of each item, boxes as shares of its sides."""
        return [self.predict(one, spec, calibration)["objects"] for one in decoded]

    def does(self, spec: TargetSpec) -> str:
        """What it finds."""
        return f"Finds objects in an image and tells which of these they are: {', '.join(spec.names)}."

    def beside(self, spec: TargetSpec, calibration: Mapping[str, Any]) -> Mapping[str, Any]:
        """From which score on objects are told, from which overlap on two are one, and how many count."""
        threshold = float(calibration.get("threshold", box_scores.THRESHOLD))
        return {"threshold": threshold, "overlap": box_scores.OVERLAP, "most": box_scores.KEPT}

    def say(self, prediction: Mapping[str, Any], *, top: int) -> str:
        """How many objects of each class, and with ``top`` above 1 so many with their boxes."""
        found = prediction["objects"]
        told = _counted(one["label"] for one in found)
        if top == 1 or not found:
            return told
        each = [f"{one['label']} {one['score']:.2f} at {_sides(one['box'])}" for one in found[:top]]
        return f"{told}: {'; '.join(each)}"

    def cells(self, prediction: Mapping[str, Any], spec: TargetSpec) -> list[tuple[str, Any]]:
        """How many objects of each class."""
        found = prediction["objects"]
        counts = Counter(one["label"] for one in found or ())
        return [(f"count of {name}", None if found is None else counts[name]) for name in spec.names]

    def figures(
        self, decoded: NDArray[Any], targets: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Sequence[Figure]:
        """Each class's average precision, and what a threshold keeps."""
        evaluator = self.evaluator(spec)
        evaluator.take(decoded, targets)
        threshold = float(calibration.get("threshold", box_scores.THRESHOLD))
        return box_figures.figures(evaluator, threshold)


def _counted(labels: Iterable[str]) -> str:
    counts = Counter(labels)
    return ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "no object"


def _sides(box: Sequence[float]) -> str:
    return f"({', '.join(f'{edge:g}' for edge in box)})"


def _nearest(row: NDArray[Any], others: NDArray[Any]) -> float:
    """The largest difference of a box or score to the nearest of its class; 1 where there is none."""
    same = others[others[:, 0] == row[0]]
    if not len(same):
        return 1.0
    return float(np.abs(same[:, 1:] - row[1:]).max(axis=1).min())
