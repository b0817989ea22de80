"""The search as a scikit-learn estimator: ``fit`` searches, ``predict`` uses the best model."""

from __future__ import annotations

import csv
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

SMALLEST = 4
"""Items below which no part of the data would hold one of each class."""


class TransferSearchClassifier(ClassifierMixin, BaseEstimator):
    """Searches for the best way to carry a pretrained network over to labelled images.

    Args:
        budget: minutes that the search may take.
        trials: points that it may try.
        epochs: of one trial; left out, its length follows from the data and is searched.
        backbones: names, as `tlsearch backbones` lists them.
        strategies: names; all that are installed and apply where it is None.
        metric: accuracy, balanced_accuracy, macro_f1 or log_loss, on items held out of ``X``.
        image_size: pixels of a side; the backbone's own where it is None.
        validation: share of ``X`` that trials are compared on.
        random_state: the same number gives the same split and, with one worker, the same search.
        directory: where study database, weights and models go; a temporary folder where it is None, which
            lives as long as the estimator.

    Attributes:
        classes_: the labels, sorted, in the order of the columns of `predict_proba`.
        best_strategy_, best_backbone_, best_params_: the winner's.
        best_score_: its metric on the held out items.
        model_: the `tlsearch.models.bundle.Model` that predicts.
        study_: name of the study in ``database_``, the study database's URL.
    """

    def __init__(
        self,
        budget: float = 10.0,
        *,
        trials: int = 60,
        epochs: int | None = None,
        backbones: Sequence[str] = ("efficientnet_lite/lite0",),
        strategies: Sequence[str] | None = None,
        metric: str = "accuracy",
        image_size: int | None = None,
        validation: float = 0.2,
        random_state: int = 0,
        directory: str | Path | None = None,
    ) -> None:
        self.budget = budget
        self.trials = trials
        self.epochs = epochs
        self.backbones = backbones
        self.strategies = strategies
        self.metric = metric
        self.image_size = image_size
        self.validation = validation
        self.random_state = random_state
        self.directory = directory

    def fit(self, X: Any, y: Any) -> Self:
        """Search.

        Args:
            X: paths of images (N,), a DataFrame with one column of them, or pixels (N, H, W) or
                (N, H, W, 3): uint8, or floats from 0 to 1.
            y: labels (N,).

        Raises:
            ValueError: X and y don't fit, or X isn't images.
            tlsearch.errors.TlsearchError: the search has no result.
        """
        import tlsearch

        images = _images(X)
        labels = np.asarray(y).ravel()
        check_classification_targets(labels)
        if len(images) != len(labels):
            raise ValueError(f"X has {len(images)} items and y has {len(labels)}.")
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has {len(classes)} class; a classifier needs at least 2.")
        if len(images) < SMALLEST * len(classes):
            raise ValueError(
                f"{len(images)} items of {len(classes)} classes are too few to compare models on."
            )
        folder = self._folder()
        self.study_ = f"fit-{uuid.uuid4().hex[:12]}"
        self.database_ = f"sqlite:///{folder / 'tlsearch.db'}"
        result = tlsearch.run(
            {
                "study": self.study_,
                "data": self._data(folder / self.study_, images, indices),
                "backbones": list(self.backbones),
                **({} if self.strategies is None else {"strategies": list(self.strategies)}),
                "objective": {"metric": self.metric},
                "budget": {"minutes": float(self.budget), "trials": self.trials, "epochs": self.epochs},
                "seed": self.random_state,
            },
            db=self.database_,
            artifacts=folder / "artifacts",
        )
        if result.model is None or result.best is None:
            raise RuntimeError(f"The search was interrupted: {result.interrupted}.")
        winner, _ = tlsearch.open(self.database_).trial(self.study_, result.model.trial)
        self.classes_ = classes
        self.model_ = tlsearch.load(result.model.uri)
        self.best_strategy_ = winner.strategy
        self.best_backbone_ = winner.backbone
        self.best_params_ = dict(winner.params)
        self.best_score_ = result.model.metrics["val"][self.metric]
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Class probabilities (N, classes), calibrated on the held out items.

        Raises:
            tlsearch.errors.DataError: an image is broken.
        """
        check_is_fitted(self, "model_")
        return self.model_.predict_proba(_images(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each image (N,)."""
        check_is_fitted(self, "model_")
        found: NDArray[Any] = self.classes_[self.model_.logits(_images(X)).argmax(axis=1)]
        return found

    def __sklearn_tags__(self) -> Any:
        """Images are no table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = True  # workers finish in any order
        return tags

    def _folder(self) -> Path:
        if self.directory is not None:
            folder = Path(self.directory)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        self._temporary = tempfile.TemporaryDirectory(prefix="tlsearch-fit-")
        return Path(self._temporary.name)

    def _data(self, place: Path, images: Sequence[Any], indices: NDArray[np.int64]) -> dict[str, Any]:
        """The items as a data set, and the section of a study file that names it; classes sort as numbers."""
        names = [f"{index:06d}" for index in indices]
        if isinstance(images[0], Path):
            path, source = place.with_suffix(".csv"), {"source": "table", "root": images[0].anchor}
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["image", "label"])
                writer.writerows(zip(images, names, strict=True))
        else:
            path, source = place.with_suffix(".npz"), {"source": "arrays"}
            np.savez(path, images=np.stack(images), labels=np.array(names))
        section = {**source, "path": str(path), "split": {"val": self.validation, "test": 0.0}}
        return section if self.image_size is None else {**section, "image_size": self.image_size}


def _images(given: Any) -> Sequence[Any]:
    """What people hand in as paths, or as uint8 images."""
    if hasattr(given, "columns"):
        if len(given.columns) != 1:
            raise ValueError(f"X has the columns {list(given.columns)}; one column of image paths is right.")
        given = given.iloc[:, 0]
    array = np.asarray(given)
    if not len(array):
        raise ValueError("X is empty.")
    if array.dtype.kind in "US" or (array.dtype == object and array.ndim == 1):
        if not all(isinstance(item, str | Path) for item in array):
            raise ValueError("X must be paths of images, or pixels of shape (N, H, W) or (N, H, W, 3).")
        return [Path(str(item)).resolve() for item in array]
    if array.ndim not in (3, 4) or array.shape[3:] not in ((), (3,)):
        raise ValueError(
            f"X has shape {array.shape}: right are paths, or pixels (N, H, W) or (N, H, W, 3). "
            "Reshape your data if its rows are flattened images."
        )
    if array.dtype == np.uint8:
        return list(array)
    if array.dtype.kind == "f" and array.min() >= 0.0 and array.max() <= 1.0:
        return list(np.rint(array * 255).astype(np.uint8))
    raise ValueError(f"Pixels must be uint8, or floats from 0 to 1; these are {array.dtype}.")
