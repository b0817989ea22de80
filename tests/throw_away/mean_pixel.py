"""A task that nobody needs, as a package of its own: predict the mean pixel of a picture, from 0 to 1."""

import numpy as np
import torch
from torch.nn import functional

from tlsearch.contracts import DatasetSource, Evaluator, LinearHead, Metric, Samples, Strata, TargetSpec, Task


class GreyPictures(DatasetSource):
    task = "mean_pixel"

    def load(self, options):
        items = [np.full((16, 16, 3), level, np.uint8) for level in range(0, 180, 2)]
        means = [float(item.mean()) / 255 for item in items]
        return Samples(items, targets=means, names=[f"picture {number}" for number in range(len(items))])


class Error(Evaluator):
    def __init__(self):
        self.errors = []

    def update(self, outputs, targets):
        self.errors.append((outputs.squeeze(1) - targets).abs())

    def compute(self):
        return {"mean_error": float(torch.cat(self.errors).mean())}


class MeanPixel(Task):
    metrics = (Metric("mean_error", minimize=True, tolerance=lambda items: 1e-4),)
    tie_breaker = "mean_error"
    unreadable = {"mean": None}

    def describe(self, targets, columns=()):
        return TargetSpec(("mean",))

    def encode(self, targets, spec):
        return np.asarray(targets, dtype=np.float32)

    def plain(self, target, spec):
        return float(target)

    def strata(self, targets, spec):
        return Strata(
            [(int(4 * one),) for one in targets], ("0", "1", "2", "3"), "quarter", "quarters", False
        )

    def head(self, width, spec, *, dropout=0.0):
        return LinearHead(width, 1, dropout=dropout)

    def loss(self, outputs, targets, recipe):
        return functional.mse_loss(outputs.squeeze(1), targets)

    def evaluator(self, spec):
        return Error()

    def predict(self, decoded, spec, calibration):
        return {"mean": float(decoded[0])}
