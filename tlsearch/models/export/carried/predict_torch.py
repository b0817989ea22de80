"""Classify image files: python predict.py IMAGE... [--json]. Needs torch, Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import preprocess
import torch
from numpy.typing import NDArray

HOW = preprocess.described()
MODULE = torch.export.load(preprocess.beside("model.pt2")).module()


def answers(paths: Sequence[str]) -> list[NDArray[Any]]:
    """All but the logits, as preprocessing.json lists it: probabilities (N, classes), or numbers, first."""
    with torch.inference_mode():
        _, *found = MODULE(torch.from_numpy(preprocess.batch(paths, HOW)))
    return [one.numpy() for one in found]


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """Class probabilities (N, classes) of image files, or their numbers (N, columns)."""
    return answers(paths)[0]


if __name__ == "__main__":
    preprocess.main(answers, HOW)
