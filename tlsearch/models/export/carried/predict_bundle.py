"""Classify image files: python predict.py IMAGE... [--json]. Needs tlsearch and the plugins of the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import decoding
import preprocess
from numpy.typing import NDArray

from tlsearch.models import bundle

MODEL = bundle.load(preprocess.HERE)


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """Class probabilities (N, classes) of image files, or their numbers (N, columns)."""
    _, logits, errors = MODEL.readable(paths)
    for position, reason in errors.items():
        raise decoding.Unreadable(f"{paths[position]} {reason}")
    return MODEL.probabilities(logits)


if __name__ == "__main__":
    preprocess.main(probabilities, preprocess.described())
