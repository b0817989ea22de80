"""Classify image files: python predict.py IMAGE... [--json]. Needs onnxruntime, Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime
import preprocess
from numpy.typing import NDArray

HOW = preprocess.described()
SESSION = onnxruntime.InferenceSession(preprocess.beside("model.onnx"), providers=["CPUExecutionProvider"])


def answers(paths: Sequence[str]) -> list[NDArray[Any]]:
    """All but the logits, as preprocessing.json lists it: probabilities (N, classes), or numbers, first."""
    given = {HOW["input"]["name"]: preprocess.batch(paths, HOW)}
    found: list[NDArray[Any]] = SESSION.run(HOW["outputs"][1:], given)
    return found


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """Class probabilities (N, classes) of image files, or their numbers (N, columns)."""
    return answers(paths)[0]


if __name__ == "__main__":
    preprocess.main(answers, HOW)
