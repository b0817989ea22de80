"""Classify image files: python predict.py IMAGE... [--json]. Needs timm, torch, Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import preprocess
import timm
import torch
from numpy.typing import NDArray

HOW = preprocess.described()
MODEL = timm.create_model(f"local-dir:{preprocess.HERE}", pretrained=True).eval()
TRANSFORM = timm.data.create_transform(**timm.data.resolve_model_data_config(MODEL))


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """Class probabilities (N, classes) of image files, pixel by pixel as in training."""
    return _shares(torch.from_numpy(preprocess.batch(paths, HOW)))


def by_timm(paths: Sequence[str]) -> NDArray[Any]:
    """The same through timm's own transform, whose resizing may round a pixel otherwise."""
    return _shares(torch.stack([TRANSFORM(preprocess.open_rgb(path, HOW)) for path in paths]))


def _shares(batch: torch.Tensor) -> NDArray[Any]:
    with torch.inference_mode():
        return MODEL(batch).softmax(dim=1).numpy()


if __name__ == "__main__":
    preprocess.main(lambda paths: [probabilities(paths)], HOW)
