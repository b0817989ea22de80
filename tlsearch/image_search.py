"""What the estimators of scikit-learn's kind share: their parameters, their items, and the search."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from tlsearch import api
from tlsearch.errors import DataError
from tlsearch.files import scratch
from tlsearch.item_files import as_file, pixels_of
from tlsearch.items import Items, items_of, missing
from tlsearch.search.picture_shapes import heads, image_size, shapes
from tlsearch.search.study_template import PREFERRED
from tlsearch.spec.presets import preset

FEWEST = 20
"""Items below which errors on the held out ones say nothing."""


class ImageSearch(BaseEstimator):
    """What classifier and regressor share: the parameters, and the search."""

    # scikit-learn reads the parameters of an estimator from its own constructor, which sets these.
    budget: float | None
    trials: int | None
    epochs: int | None
    backbones: str | Sequence[str]
    strategies: str | Sequence[str] | None
    metric: str
    image_size: int | None
    channels: int | None
    validation: float
    random_state: Any
    preset: str
    directory: str | Path | None

    def _search(self, images: Sequence[Any], targets: NDArray[Any], **study: Any) -> None:
        """Search, and keep what came out.

        Args:
            images: the items.
            targets: names (N,), or numbers (N, K).
            study: further keys of a study file.

        Raises:
            tlsearch.errors.TlsearchError: the search has no result.
        """
        from tlsearch.database.address import url_of

        effort = self._effort()
        folder = self._folder()
        self.study_ = f"fit-{uuid.uuid4().hex[:12]}"
        self.database_ = url_of(folder / "tlsearch.db")
        result = api.run(
            {
                "study": self.study_,
                "data": self._data(folder / self.study_, images, targets),
                "backbones": self.backbones,
                **effort,
                "objective": {"metric": self.metric},
                "seed": self._seed(),
                **study,
            },
            db=self.database_,
            artifacts=folder / "artifacts",
        )
        if result.model is None or result.best is None:
            raise RuntimeError(f"The search was interrupted: {result.interrupted}.")
        winner, _ = api.open(self.database_).trial(self.study_, result.model.trial)
        self.model_ = api.load(result.model.uri)
        self.best_strategy_ = winner.strategy
        self.best_backbone_ = winner.backbone
        self.best_params_ = dict(winner.params)
        self.best_score_ = result.model.metrics["val"][self.metric]

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
            folder = Path(self.directory).expanduser().absolute()
            try:
                if not os.fspath(self.directory):  # it would be the working directory
                    raise ValueError("it is empty")
                folder.mkdir(parents=True, exist_ok=True)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise ValueError(f"directory={str(self.directory)!r} can't be used: {why}.") from None
            return folder
        self._temporary = scratch("fit")
        return Path(self._temporary.name)

    def _effort(self) -> dict[str, Any]:
        """The preset's sections of a study file, with the values that were given in place of its own."""
        keys = dict(preset(self.preset).keys)
        given = {"minutes": self.budget, "trials": self.trials, "epochs": self.epochs}
        keys["budget"] = {
            **keys["budget"],
            **{key: value for key, value in given.items() if value is not None},
        }
        return keys if self.strategies is None else {**keys, "strategies": self.strategies}

    def _seed(self) -> int:
        """The random state as a number, as scikit-learn takes it: None draws one."""
        if self.random_state is None or not isinstance(self.random_state, Integral):
            return int(check_random_state(self.random_state).randint(2**31 - 1))
        return int(self.random_state)

    def _data(self, place: Path, images: Sequence[Any], targets: NDArray[Any]) -> dict[str, Any]:
        """The items as a data set, and the section of a study file that names it."""
        pixels = pixels_of(images, self.channels)
        kinds = {
            (image.shape, image.dtype.str) if isinstance(image, np.ndarray) else None for image in images
        }
        if len(kinds) == 1 and None not in kinds:
            path: Path = place.with_suffix(".npz")
            source: dict[str, Any] = {"source": "arrays"}
            np.savez(path, images=np.stack(images), labels=targets)
        else:
            whole = "channels" in pixels
            images = files = [
                as_file(image, place / f"{number:06d}.png", whole=whole)
                for number, image in enumerate(images)
            ]
            path = place.with_suffix(".csv")
            source = {"source": "table", "root": files[0].anchor}
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                rows = targets.reshape(len(files), -1).tolist()
                columns = ["label"] if targets.ndim == 1 else [f"label {at}" for at in range(len(rows[0]))]
                writer.writerow(["image", *columns])
                writer.writerows([one, *row] for one, row in zip(files, rows, strict=True))
            if targets.ndim > 1:
                source["label_column"] = columns
        section = {**source, **pixels, "path": str(path), "split": {"val": self.validation, "test": 0.0}}
        size = self.image_size if self.image_size is not None else self._size(images)
        return section if size is None else {**section, "image_size": size}

    def _size(self, images: Sequence[Any]) -> int | None:
        """What `tlsearch init` would write, for the backbones that it proposes; they take any size.

        Args:
            images: arrays of one shape, or files.
        """
        named = {self.backbones} if isinstance(self.backbones, str) else set(self.backbones)
        if not named <= set(PREFERRED):
            return None
        if isinstance(images[0], np.ndarray):
            side: int | None = sorted(images[0].shape)[-2]  # channels may stand first or last, and are few
        else:
            side = shapes(heads(images)).pixels
        return image_size(side, len(images), seconds=preset(self.preset).within(self.budget).epoch_seconds)


def images_of(given: Any) -> Items:
    """What people hand in as items.

    Raises:
        ValueError: they aren't images, or files that aren't there.
    """
    try:
        found = items_of(given)
    except DataError as error:
        raise ValueError(str(error)) from error
    if not found.values:
        raise ValueError("X is empty.")
    if lacking := missing(found):
        more = f"; and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise ValueError(f"{len(lacking)} of {len(found.values)} files: {'; '.join(lacking[:5])}{more}.")
    return found
