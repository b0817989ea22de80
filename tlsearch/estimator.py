"""The search as a scikit-learn estimator: ``fit`` searches, ``predict`` uses the best model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted

from tlsearch.counts import plural
from tlsearch.image_search import FEWEST, ImageSearch, images_of
from tlsearch.items import labels_of
from tlsearch.names import class_name
from tlsearch.spec.presets import DEFAULT

SMALLEST = 4
"""Items below which no part of the data would hold one of each class."""


class TransferSearchClassifier(ClassifierMixin, ImageSearch):
    """Searches for the best way to carry a pretrained network over to labelled images.

    Args:
        budget: minutes that the search may take; the preset's where it is None, as are the next two.
        trials: points that it may try.
        epochs: of one trial; where the preset has none, its length follows from the data and is searched.
        backbones: names, as `tlsearch backbones` lists them.
        strategies: names; the preset's where it is None: all that are installed and apply, but for quick.
        metric: accuracy, balanced_accuracy, macro_f1 or log_loss, on items held out of ``X``.
        image_size: pixels of a side; where it is None, chosen from the images and the minutes as by `tlsearch
            init`, or the backbone's own where another one is named.
        channels: of an image, where they aren't RGB; where it is None, arrays of other than 1, 3 and 4
            channels have all of theirs taken. Arrays of 4 are RGB and opacity, unless it says 4.
        validation: share of ``X`` that trials are compared on.
        random_state: the same number gives the same split and, with one worker, the same search; None draws
            one, as does a random state of NumPy's.
        preset: quick, good or best: the effort, as `tlsearch run --preset` takes it.
        directory: where study database, weights and models go; a temporary folder where it is None, which
            lives as long as the estimator.

    Attributes:
        classes_: the labels, sorted, in the order of the columns of `predict_proba`.
        best_strategy_, best_backbone_, best_params_: the winner's.
        best_score_: its metric on the held out items, before it was trained anew on these too.
        model_: the `tlsearch.models.model.Model` that predicts.
        study_: name of the study in ``database_``, the study database's URL.
    """

    def __init__(
        self,
        budget: float | None = None,
        *,
        trials: int | None = None,
        epochs: int | None = None,
        backbones: str | Sequence[str] = ("efficientnet_lite/lite0",),
        strategies: str | Sequence[str] | None = None,
        metric: str = "accuracy",
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

    def fit(self, X: Any, y: Any) -> Self:
        """Search.

        Args:
            X: paths of images, PIL images or arrays, in a list, a Series by position, a DataFrame with one
                column, or a generator; or pixels (N, H, W) or (N, H, W, C). Pixels are uint8, or deeper,
                which are scaled by one range for all of X, and kept with 16 bits.
            y: labels (N,).

        Warns:
            UserWarning: of items that were set aside, and whatever else the data gives to worry about.

        Raises:
            ValueError: X and y don't fit, or X isn't images.
            tlsearch.errors.TlsearchError: the search has no result.
        """
        images = images_of(X).values
        labels = labels_of(y)
        check_classification_targets(labels)
        if len(images) != len(labels):
            raise ValueError(f"X has {plural(len(images), 'item')} and y has {len(labels)}.")
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            few = plural(len(classes), "class", "classes")
            raise ValueError(f"y has {few}; a classifier needs at least 2.")
        if len(images) < SMALLEST * len(classes):
            raise ValueError(
                f"{plural(len(images), 'item')} of {len(classes)} classes are too few to compare models on."
            )
        names = _names(classes)
        self._search(images, np.array([names[index] for index in indices]))
        self.classes_ = classes
        # The study sorts classes as texts, scikit-learn labels as what they are.
        self._columns = [self.model_.classes.index(name) for name in names]
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Class probabilities (N, classes), calibrated where the held out items show that it helps.

        Raises:
            tlsearch.errors.DataError: an image is broken.
        """
        check_is_fitted(self, "model_")
        shares: NDArray[np.float32] = self.model_.predict_proba(images_of(X))[:, self._columns]
        return shares

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each image (N,)."""
        check_is_fitted(self, "model_")
        found: NDArray[Any] = self.classes_[self.model_.logits(images_of(X))[:, self._columns].argmax(axis=1)]
        return found


class TransferSearchRegressor(RegressorMixin, ImageSearch):
    """Searches for the best way to carry a pretrained network over to images with numbers.

    Arguments and attributes are those of `TransferSearchClassifier`, but for ``classes_``.

    Args:
        metric: mae, rmse, r2, spearman or quadratic_kappa, on items held out of ``X``.
    """

    def __init__(
        self,
        budget: float | None = None,
        *,
        trials: int | None = None,
        epochs: int | None = None,
        backbones: str | Sequence[str] = ("efficientnet_lite/lite0",),
        strategies: str | Sequence[str] | None = None,
        metric: str = "mae",
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

    def fit(self, X: Any, y: Any) -> Self:
        """Search.

        Args:
            X: as `TransferSearchClassifier.fit` takes it.
            y: numbers (N,), or (N, K) for several an image.

        Warns:
            UserWarning: of items that were set aside, and whatever else the data gives to worry about.

        Raises:
            ValueError: X and y don't fit, X isn't images, or y isn't finite numbers.
            tlsearch.errors.TlsearchError: the search has no result.
        """
        images = images_of(X).values
        targets = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if targets.ndim > 2:
            raise ValueError(f"y has shape {targets.shape}; right are (N,) and (N, K).")
        if len(images) != len(targets):
            raise ValueError(f"X has {plural(len(images), 'item')} and y has {len(targets)}.")
        constant = (targets == targets[:1]).reshape(len(targets), -1).all(axis=0)
        if constant.any():
            raise ValueError("y is the same number for all items: there is nothing to learn.")
        if len(images) < FEWEST:
            few = plural(len(images), "item is", "items are")
            raise ValueError(f"{few} too few to compare models on; {FEWEST} are needed.")
        self._flat = targets.ndim == 1
        self._search(images, targets, task="regression")
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """The numbers of each image, (N,) or (N, K) as ``y`` was."""
        check_is_fitted(self, "model_")
        found = np.asarray(self.model_.predict(images_of(X)), dtype=np.float64)
        return found.reshape(-1) if self._flat else found.reshape(len(found), -1)

    def predict_interval(self, X: Any) -> NDArray[np.float64]:
        """Lower and upper ends (N, K, 2) of the intervals; ``interval_coverage_`` is what they promise."""
        check_is_fitted(self, "model_")
        found = [list(one["intervals"].values()) for one in self.model_.describe(images_of(X).values)]
        return np.asarray(found, dtype=np.float64)

    @property
    def interval_coverage_(self) -> float:
        """The share of new numbers that intervals are made to hold."""
        check_is_fitted(self, "model_")
        return float(self.model_.manifest.calibration["coverage"])


def _names(classes: NDArray[Any]) -> list[str]:
    """The labels as names of classes.

    Raises:
        ValueError: two would have the same, or one has none.
    """
    names = [class_name(str(label)) for label in classes]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled or "" in names:
        raise ValueError(
            f'y has several labels that are written "{doubled[0]}".' if doubled else "y has an empty label."
        )
    return names
