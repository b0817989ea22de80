"""Classify image files: python predict.py IMAGE... [--json]. Needs tlsearch and the plugins of the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import decoding
import preprocess
from numpy.typing import NDArray

from tlsearch.models import bundle

HOW = preprocess.described()
MODEL = bundle.load(preprocess.HERE)


def answers(paths: Sequence[str]) -> list[NDArray[Any]]:
    """Class probabilities (N, classes) of files, or numbers (N, columns); verdicts and distances (N,)."""
    _, found, errors = MODEL.readable(paths, MODEL.look)
    for position, reason in errors.items():
        raise decoding.Unreadable(f"{paths[position]} {reason}")
    decoded, distances, verdicts = MODEL.apart(found)
    return [one for one in (decoded, verdicts, distances) if one is not None]


def probabilities(paths: Sequence[str]) -> NDArray[Any]:
    """The first of them."""
    return answers(paths)[0]


if __name__ == "__main__":
    preprocess.main(answers, HOW)
