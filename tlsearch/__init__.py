"""Finds the best way to carry a pretrained network over to your images.

import tlsearch

result = tlsearch.run("studies/quickstart.yaml")      # search; the same call again resumes
best = tlsearch.open("sqlite:///tlsearch.db").best("quickstart")
model = tlsearch.load(best.model.uri)
model.predict(["a.png", "b.jpg"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlsearch.api import load, open, run

if TYPE_CHECKING:
    from tlsearch.estimator import TransferSearchClassifier, TransferSearchRegressor
    from tlsearch.label_estimator import TransferSearchMultilabel

__all__ = [
    "TransferSearchClassifier",
    "TransferSearchMultilabel",
    "TransferSearchRegressor",
    "load",
    "open",
    "run",
]


def __getattr__(name: str) -> Any:
    """The estimator is imported when it is asked for: scikit-learn takes a second."""
    if name in ("TransferSearchClassifier", "TransferSearchRegressor"):
        from tlsearch import estimator

        return getattr(estimator, name)
    if name == "TransferSearchMultilabel":
        from tlsearch.label_estimator import TransferSearchMultilabel

        return TransferSearchMultilabel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
