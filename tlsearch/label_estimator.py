"""The search of label sets as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_array, check_is_fitted

from tlsearch.counts import plural
from tlsearch.image_search import FEWEST, ImageSearch, images_of
from tlsearch.spec.presets import DEFAULT


class TransferSearchMultilabel(ClassifierMixin, ImageSearch):
    """Searches for the best way to carry a pretrained network over to images with sets of labels.

    Arguments and attributes are those of `TransferSearchClassifier`, but for ``classes_``.

    Args:
        metric: map, macro_f1, micro_f1, subset_accuracy or log_loss, on items held out of ``X``.

    Attributes:
        labels_: names of the columns of ``y``, where it is a DataFrame; else their numbers.
        thresholds_: probabilities (K,) from which on `predict` tells a label.
    """

    def __init__(
        self,
        budget: float | None = None,
        *,
        trials: int | None = None,
        epochs: int | None = None,
        backbones: str | Sequence[str] = ("efficientnet_lite/lite0",),
        strategies: str | Sequence[str] | None = None,
        metric: str = "map",
        image_size: int | None = None,
        channels: int | None = None,
        validation: float = 0.2,
        random_state: Any = 0,
        preset: str = DEFAULT,
        directory: str | Path | None = None,
    ) -> None:
        self.budget = budget
        self.trials = trials
        self.epochs = epochs
        self.backbones = backbones
        self.strategies = strategies
        self.metric = metric
        self.image_size = image_size
        self.channels = channels
        self.validation = validation
        self.random_state = random_state
        self.preset = preset
        self.directory = directory

    def __sklearn_tags__(self) -> Any:
        """It takes several labels an item."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Search.

        Args:
            X: as `TransferSearchClassifier.fit` takes it.
            y: 0 and 1 (N, K), a column for each label; a DataFrame names them.

        Warns:
            UserWarning: of items that were set aside, and whatever else the data gives to worry about.

        Raises:
            ValueError: X and y don't fit, X isn't images, or y is anything but 0 and 1.
            tlsearch.errors.TlsearchError: the search has no result, or a label tells nothing.
        """
        images = images_of(X).values
        names = list(getattr(y, "columns", ()))
        if not names:
            _refuse_names(y)
        flags = check_array(y, dtype=None, input_name="y")
        if odd := sorted(set(np.unique(flags).tolist()) - {0, 1}, key=str):
            raise ValueError(f"y holds {odd[0]!r}; a column of labels holds 0 and 1.")
        if len(images) != len(flags):
            raise ValueError(f"X has {plural(len(images), 'item')} and y has {len(flags)}.")
        if len(images) < FEWEST:
            few = plural(len(images), "item is", "items are")
            raise ValueError(f"{few} too few to compare models on; {FEWEST} are needed.")
        self._search(images, flags.astype(np.int64), task="multilabel")
        self.labels_ = names or list(range(flags.shape[1]))
        self.thresholds_ = np.asarray(self.model_.manifest.calibration["thresholds"])
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probabilities (N, K) of the labels.

        Raises:
            tlsearch.errors.DataError: an image is broken.
        """
        check_is_fitted(self, "model_")
        shares: NDArray[np.float32] = self.model_.predict_proba(images_of(X))
        return shares

    def predict(self, X: Any) -> NDArray[np.int64]:
        """0 and 1 (N, K): 1 where an image's probability reaches the label's threshold."""
        return (self.predict_proba(X) >= self.thresholds_).astype(np.int64)


def _refuse_names(y: Any) -> None:
    """Refuse names of labels, each item's in a text or a list, where columns of 0 and 1 are wanted.

    Raises:
        ValueError: they are such.
    """
    first = next(iter(y), None) if isinstance(y, Iterable) else None
    inside = first if isinstance(first, list | tuple | set) else [first]
    if any(isinstance(one, str) for one in inside):
        raise ValueError(
            f"y names labels, such as {first!r}; right are columns of 0 and 1. y.str.get_dummies('|') makes "
            "them of texts, of lists sklearn.preprocessing.MultiLabelBinarizer."
        )
