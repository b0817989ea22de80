"""Figures of boxes: how well each class is found, what a threshold keeps, and boxes on pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tlsearch.contracts import Figure
from tlsearch.contracts.figure import escape
from tlsearch.tasks.box_scores import BoxEvaluator
from tlsearch.tasks.mask_figures import colour

POINTS = 200
"""Of a curve, at most."""


def drawn(picture: Image.Image, objects: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Image.Image:
    """A picture with boxes in its pixels, each in its class's colour, with label and score."""
    image = picture.convert("RGB")
    canvas = ImageDraw.Draw(image)
    longer = max(image.size)
    width = max(1, longer // 200)
    font = ImageFont.load_default(size=max(9, longer // 45))
    for one in reversed(objects):  # the surest on top
        ink = colour(1 + list(names).index(one["label"]))
        left, top, right, bottom = one["box"]
        canvas.rectangle((left, top, max(left, right), max(top, bottom)), outline=ink, width=width)
        told = one["label"] if one["score"] == 1 else f"{one['label']} {one['score']:.2f}"
        place = canvas.textbbox((left, top), told, font=font)
        canvas.rectangle(place, fill=ink)
        canvas.text((left, top), told, fill="white" if sum(ink) < 400 else "black", font=font)
    return image


def figures(evaluator: BoxEvaluator, threshold: float) -> Sequence[Figure]:
    """Average precision by class; precision and recall by threshold."""
    by_class = evaluator.by_class()
    if not by_class:
        return ()
    worst = min(by_class, key=lambda name: by_class[name][1])
    bars = [
        {
            "type": "bar",
            "name": told,
            "x": [escape(name) for name in by_class],
            "y": [pair[at] for pair in by_class.values()],
            "marker": {"color": ink},
        }
        for at, told, ink in ((1, "overlap 0.5", "--s0"), (0, "overlaps 0.5 to 0.95", "--s1"))
    ]
    first = Figure(
        "class_precision",
        "Average precision by class",
        f'Lowest for "{worst}": {by_class[worst][1]:.3f} at an overlap of 0.5.',
        bars,
        {"yaxis": {"range": [0, 1], "title": {"text": "average precision"}}, "barmode": "group"},
    )
    scores, right, count = evaluator.matches()
    if not len(scores):
        return (first,)
    true = right.cumsum()
    kept = np.unique(np.linspace(0, len(scores) - 1, min(POINTS, len(scores))).astype(int))
    precision, recall = true / np.arange(1, len(scores) + 1), true / max(1, count)
    told = int((scores >= threshold).sum())
    said = (
        "No object reaches the model's threshold."
        if not told
        else (
            f"At the model's threshold of {threshold:.2f}: precision {precision[told - 1]:.2f}, recall "
            f"{recall[told - 1]:.2f}, at an overlap of 0.5."
        )
    )
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": scores[kept].round(4).tolist(),
            "y": values[kept].round(4).tolist(),
            "line": {"color": ink},
        }
        for name, values, ink in (("precision", precision, "--s0"), ("recall", recall, "--s1"))
    ]
    second = Figure(
        "threshold",
        "Precision and recall by score",
        said,
        lines,
        {
            "xaxis": {"range": [0, 1], "title": {"text": "score threshold"}},
            "yaxis": {"range": [0, 1], "title": {"text": "share"}},
        },
    )
    return (first, second)
