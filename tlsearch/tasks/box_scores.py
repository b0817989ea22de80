"""Which objects a detector finds, and how good they are: mean average precision, as COCO defines it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from tlsearch.contracts import Evaluator, Scores, TargetSpec
from tlsearch.tasks import box_head, box_targets

MAP, MAP_50, LOSS = "map_50_95", "map_50", "loss"
"""Names of the metrics."""
CANDIDATES = 1000
"""Places and classes of an item that are looked at, the likeliest, as in torchvision's FCOS."""
OVERLAP = 0.6
"""Intersection over union from which on two boxes of a class are of one object."""
KEPT = 100
"""Objects of an item that count, as in COCO's evaluation."""
LEAST = 0.01
"""Scores below tell nothing."""
THRESHOLD = 0.3
"""Score from which on objects are told, where none was fitted."""
SIDE = 1000.0
"""Shares of a picture's side are told to COCO's evaluation as pixels of a square of this side."""


def candidates(outputs: Tensor) -> Tensor:
    """The likeliest classes and boxes (B, K, 6) of outputs: class, left, top, right, bottom, score.

    A score is the geometric mean of the class's probability and centreness.
    """
    classes = outputs.shape[1] - box_head.BOX
    shares = (outputs[:, :classes].sigmoid() * outputs[:, classes : classes + 1].sigmoid()).sqrt()
    places = outputs.shape[2] * outputs.shape[3]
    scores, chosen = shares.flatten(1).topk(min(CANDIDATES, classes * places), dim=1)
    boxes = box_head.boxes(outputs).clamp(0, 1).flatten(2)
    place = (chosen % places)[:, None].expand(-1, 4, -1)
    kind = (chosen // places).to(outputs.dtype)
    return torch.cat([kind[:, None], boxes.gather(2, place), scores[:, None]], dim=1).transpose(1, 2)


def objects(candidate: NDArray[Any] | Tensor, *, least: float = LEAST) -> NDArray[np.float32]:
    """The objects (k, 6) among an item's candidates (K, 6), the surest first: of boxes that overlap, one.

    Rows of a target (M, 5) are objects too, of score 1.
    """
    rows = torch.as_tensor(np.asarray(candidate, dtype=np.float32))
    if rows.shape[1] == 5:
        own = rows[rows[:, 0] >= 0]
        return np.asarray(torch.cat([own, torch.ones(len(own), 1)], dim=1))
    rows = rows[rows[:, 5] >= least]
    kept = batched_nms(rows[:, 1:5], rows[:, 5], rows[:, 0].long(), OVERLAP)
    return np.asarray(rows[kept[:KEPT]])


class BoxEvaluator(Evaluator):
    """Keeps the objects of each item, no outputs."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.found: list[NDArray[np.float32]] = []
        self.actual: list[NDArray[np.float32]] = []
        self.losses: list[float] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take outputs (B, C + 5, S, S) and boxes (B, M, 5)."""
        pairs = zip(outputs.detach().float(), targets, strict=True)
        self.losses += [float(box_targets.loss(one[None], own[None])) for one, own in pairs]
        self.take(candidates(outputs.detach().float()).cpu().numpy(), targets.cpu().numpy())

    def take(self, decoded: NDArray[Any], targets: NDArray[Any]) -> None:
        """Take candidates (B, K, 6) and boxes (B, M, 5)."""
        self.found += [objects(one) for one in decoded]
        self.actual += [objects(one) for one in targets]

    def compute(self) -> Scores:
        """Average precision, the mean over the classes that occur: at overlaps of 0.5 to 0.95, and at 0.5.

        Besides, the mean loss of an item.
        """
        pairs = list(self.by_class().values()) or [(0.0, 0.0)]
        means = {name: float(np.mean([pair[at] for pair in pairs])) for at, name in enumerate((MAP, MAP_50))}
        return {**means, LOSS: float(np.mean(self.losses)) if self.losses else 0.0}

    def by_class(self) -> Mapping[str, tuple[float, float]]:
        """Average precision of each class that occurs, at overlaps of 0.5 to 0.95 and at 0.5."""
        if not any(len(own) for own in self.actual):
            return {}
        precision = self._precision()  # (overlaps, recalls, classes, areas, limits); -1 where there is none
        told = {}
        for at, name in enumerate(self.names):
            own = precision[:, :, at, 0, -1]
            if (own > -1).any():
                told[name] = (float(own[own > -1].mean()), float(own[0][own[0] > -1].mean()))
        return told

    def by_name(self, spec: TargetSpec) -> dict[str, float]:
        """Average precision of each class that occurs, at an overlap of 0.5."""
        return {name: half for name, (_, half) in self.by_class().items()}

    def _precision(self) -> NDArray[np.float64]:
        from faster_coco_eval import COCO, COCOeval_faster

        pictures = [{"id": item, "width": SIDE, "height": SIDE} for item in range(len(self.actual))]
        kinds = [{"id": at, "name": name} for at, name in enumerate(self.names)]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(
                {"images": pictures, "categories": kinds, "annotations": list(_told(self.actual, area=True))}
            )
            found = truth.loadRes(list(_told(self.found, area=False)) or [_nowhere(self.actual)])
            evaluation = COCOeval_faster(truth, found, iouType="bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"], dtype=np.float64)

    def matches(self, overlap: float = 0.5) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """Scores of all objects, falling; whether each is a true one at that overlap; and how many true ones.

        An object is matched with the true one of its class that it overlaps most, each once.
        """
        scores, right = list[float](), list[bool]()
        for found, actual in zip(self.found, self.actual, strict=True):
            free = np.ones(len(actual), bool)
            for one in found:
                shares = np.where(free & (actual[:, 0] == one[0]), overlaps(one, actual), 0.0)
                hit = bool(len(shares)) and bool(shares.max() >= overlap)
                if hit:
                    free[int(shares.argmax())] = False
                scores.append(float(one[5]))
                right.append(hit)
        order = np.argsort(scores, kind="stable")[::-1] if scores else np.zeros(0, int)
        count = sum(len(own) for own in self.actual)
        return np.array(scores)[order], np.array(right, bool)[order], count

    def calibration(self) -> Mapping[str, Any]:
        """``threshold``: the score from which on objects are worth telling."""
        return {"threshold": self.threshold()}

    def threshold(self) -> float:
        """The score at which the F1 score of what is told, at an overlap of 0.5, is largest."""
        scores, right, count = self.matches()
        if not right.any():
            return THRESHOLD
        true = right.cumsum()
        f1 = 2 * true / (np.arange(1, len(right) + 1) + count)
        best = int(f1.argmax())
        below = scores[best + 1] if best + 1 < len(scores) else scores[best]
        return round(float((scores[best] + below) / 2), 4)


def overlaps(one: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of a row with others (N,)."""
    low = np.maximum(one[1:3], others[:, 1:3])
    high = np.minimum(one[3:5], others[:, 3:5])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 3:5] - others[:, 1:3], axis=1) + np.prod(one[3:5] - one[1:3])
    return np.asarray(both / np.maximum(areas - both, 1e-12), dtype=np.float64)


def _told(items: Sequence[NDArray[np.float32]], *, area: bool) -> Any:
    number = 0
    for item, rows in enumerate(items):
        for row in rows.astype(np.float64):
            number += 1
            left, top = SIDE * row[1], SIDE * row[2]
            wide, high = SIDE * (row[3] - row[1]), SIDE * (row[4] - row[2])
            told = {
                "id": number,
                "image_id": item,
                "category_id": int(row[0]),
                "bbox": [left, top, wide, high],
            }
            yield {**told, "area": wide * high, "iscrowd": 0} if area else {**told, "score": float(row[5])}


def _nowhere(actual: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    """One object of no score and no area: COCO's evaluation takes no empty list."""
    kind = next(int(own[0, 0]) for own in actual if len(own))
    return {"image_id": 0, "category_id": kind, "bbox": [0.0, 0.0, 0.0, 0.0], "score": 0.0}
