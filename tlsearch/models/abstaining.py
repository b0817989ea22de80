"""How well a model knows what it doesn't know: risk against coverage, and outsiders against its own items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlsearch.contracts.verdict import VERDICTS
from tlsearch.errors import DataError
from tlsearch.models.model import Model

KEPT = 0.95
"""Share of a model's own items that are accepted where outsiders are counted: the field's convention."""


def risk_coverage(confidence: NDArray[Any], right: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coverages (N,) and the share of wrong answers (N,) among so many of the surest items.

    El-Yaniv and Wiener 2010 (JMLR 11); of equal confidence all count at once, as nothing tells them apart.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    count = np.arange(1, len(order) + 1)
    ends = np.r_[confidence[order][1:] != confidence[order][:-1], True]
    # A tie's items all get the risk at its end.
    at = np.flatnonzero(ends)[np.searchsorted(np.flatnonzero(ends), count - 1)]
    return count / len(order), wrong[at] / count[at]


def detection(own: NDArray[Any], others: NDArray[Any]) -> dict[str, float]:
    """How well distances tell outsiders from a model's own items.

    Args:
        own: distances of items that the model is for, none of which it was trained on.
        others: those of outsiders.

    Returns:
        ``auroc``: how often an outsider is farther than an own item; ``accepted_at_95``: the share of
        outsiders that pass where 95% of the own items do (FPR at 95% TPR).
    """
    from sklearn.metrics import roc_auc_score

    labels = np.r_[np.zeros(len(own)), np.ones(len(others))]
    return {
        "auroc": float(roc_auc_score(labels, np.r_[own, others])),
        "accepted_at_95": float(np.mean(others <= np.quantile(own, KEPT))),
    }


def shares(verdicts: NDArray[np.int64]) -> dict[str, float]:
    """The share of each verdict."""
    return {name: float(np.mean(verdicts == at)) for at, name in enumerate(VERDICTS)}


def of_own(
    verdicts: NDArray[np.int64] | None, confidence: NDArray[Any], right: NDArray[np.bool_]
) -> dict[str, Any]:
    """Figures of labelled items.

    Args:
        verdicts: numbers of `VERDICTS` (N,); None where the model gives none.
        confidence: probability of each answer (N,).
        right: whether it is (N,).
    """
    coverage, risk = risk_coverage(confidence, right)
    told: dict[str, Any] = {
        "risk_at_coverage": {
            f"{share:g}": float(risk[np.searchsorted(coverage, share - 1e-9)]) for share in (0.5, 0.8, 0.9, 1)
        },
        "area_under_risk_coverage": float(risk.mean()),
    }
    if verdicts is not None:
        sure = right[verdicts == 0]
        told |= {"verdicts": shares(verdicts), "right_of_sure": float(sure.mean()) if len(sure) else None}
    return told


def of_outsiders(model: Model, items: Sequence[object], own: NDArray[Any]) -> dict[str, Any]:
    """Figures of items that are none of what a model knows.

    Args:
        model: with distances.
        items: outsiders.
        own: distances of the model's own items.

    Raises:
        DataError: the model gives no distances, or none of the items can be read.
    """
    if model.familiar is None:
        raise DataError(
            f"This model can't tell outsiders from its own items: {model.silent or NOT_ASKED}.",
            hint="Models of new studies can, unless the study file has abstain: {outsiders: 0}.",
        )
    kept, found, errors = model.readable(items, model.look)
    if not kept:
        raise DataError("None of the outsiders can be read.", hint="; ".join(list(errors.values())[:3]))
    _, distances, verdicts = model.apart(found)
    assert distances is not None
    assert verdicts is not None
    return {"items": len(kept), **detection(own, distances), "verdicts": shares(verdicts)}


NOT_ASKED = "its study turned that off, or its task doesn't offer it"
