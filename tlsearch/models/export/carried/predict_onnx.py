"""Classify image files: python predict.py IMAGE... [--json]. Needs onnxruntime, Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime
import preprocess
from numpy.typing import NDArray

HOW = preprocess.described()
SESSION = onnxruntime.InferenceSession(preprocess.HERE / "model.onnx", providers=["CPUExecutionProvider"])


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """Class probabilities (N, classes) of image files, or their numbers (N, columns)."""
    given = {HOW["input"]["name"]: preprocess.batch(paths, HOW)}
    (shares,) = SESSION.run([HOW["outputs"][1]], given)
    return shares


if __name__ == "__main__":
    preprocess.main(probabilities, HOW)
