"""How many items each class has: what that advises, how an audit tells it, and weights that balance it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.tasks import imbalance
from tlsearch.tasks.class_scores import ACCURACY, BALANCED, MACRO_F1

TINY = 10
"""Items below which what is measured on a class says little."""
EXAMPLES = 100
"""Classes of a kind that are named in an audit; all are counted."""


def advised(counts: Mapping[str, int]) -> tuple[str, str]:
    """The metric to propose for classes of so many items, and why."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    largest, smallest = ordered[0], ordered[-1]
    if largest[1] < imbalance.UNEQUAL * smallest[1]:
        return ACCURACY, "classes are about equal; else balanced_accuracy or macro_f1"
    return BALANCED, (
        f"classes are unequal: {largest[1]} of {largest[0]}, {smallest[1]} of {smallest[0]}; weights and"
        " balanced batches are searched (balance)"
    )


def findings(counts: Mapping[str, Mapping[str, int]], metric: str) -> Mapping[str, Any]:
    """How unequal the classes are, and which have few items, of items by split and class."""
    totals = totals_of(counts)
    largest = max(totals, key=lambda name: totals[name])
    smallest = min(totals, key=lambda name: totals[name])
    ratio = totals[largest] / max(1, totals[smallest])
    tiny = [[name, count] for name, count in totals.items() if count < TINY]
    uneven = ratio >= imbalance.UNEQUAL and metric not in (BALANCED, MACRO_F1)
    return {
        "classes": len(totals),
        "imbalance": {
            "ratio": round(ratio, 2),
            "largest": largest,
            "smallest": smallest,
            "majority": round(totals[largest] / max(1, sum(totals.values())), 4),
            "metric": metric,
            "proposed_metric": BALANCED if uneven else None,
        },
        "tiny_classes": {"count": len(tiny), "examples": tiny[:EXAMPLES]},
    }


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What unequal and tiny classes, as `findings` gives them, mean for scores."""
    lines = []
    uneven = found["imbalance"]
    if uneven["proposed_metric"]:
        lines.append(
            f'"{uneven["largest"]}" has {uneven["ratio"]:g} times the items of "{uneven["smallest"]}",'
            f" and a model that always predicts it has an accuracy of {uneven['majority']:.2f}: objective:"
            f" {{metric: {uneven['proposed_metric']}}} counts every class alike"
        )
    tiny = found["tiny_classes"]
    if tiny["count"]:
        lines.append(few_items(tiny["count"], tiny["examples"][0], "class", "classes"))
    return lines


def totals_of(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Items by class of all splits, of items by split and class."""
    totals: Counter[str] = Counter()
    for split in counts.values():
        totals.update(split)
    return dict(totals)


def few_items(count: int, example: tuple[str, int], one: str, many: str) -> str:
    """That so many classes have fewer than `TINY` items, such as the example and its items."""
    name, items = example
    which = f"1 {one} has" if count == 1 else f"{count} {many} have"
    return f'{which} fewer than {TINY} items, such as "{name}" ({items}): scores on them say little'


def unequal_counts(targets: NDArray[Any], classes: int) -> Sequence[int]:
    """Items of each class where the largest has three times those of the smallest, or more; else nothing."""
    counts = np.bincount(targets, minlength=classes)
    present = counts[counts > 0]
    uneven = len(present) > 1 and present.max() >= imbalance.UNEQUAL * present.min()
    return counts.tolist() if uneven else ()


def equally_often(targets: NDArray[Any]) -> NDArray[Any]:
    """How often to draw each item (N,) of class indices (N,), so that every class comes equally often."""
    often: NDArray[Any] = 1.0 / np.bincount(targets)[targets]
    return often


def weights_of_heads(counts: Sequence[int], ways: Sequence[str]) -> list[list[float]] | None:
    """Weights of the classes in the loss of each head; None where all are 1.

    Args:
        counts: of the classes' items; none where classes are equal.
        ways: the heads' values of the hyperparameter ``balance``.
    """
    found = [imbalance.weights(counts, way) for way in ways]
    if not any(found):
        return None
    plain = [1.0] * len(counts)
    return [weights or plain for weights in found]
