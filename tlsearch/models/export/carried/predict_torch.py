"""Classify image files: python predict.py IMAGE... [--json]. Needs torch, Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import preprocess
import torch
from numpy.typing import NDArray

HOW = preprocess.described()
MODULE = torch.export.load(preprocess.HERE / "model.pt2").module()


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """Class probabilities (N, classes) of image files, or their numbers (N, columns)."""
    with torch.inference_mode():
        _, shares = MODULE(torch.from_numpy(preprocess.batch(paths, HOW)))
    return shares.numpy()


if __name__ == "__main__":
    preprocess.main(probabilities, HOW)
