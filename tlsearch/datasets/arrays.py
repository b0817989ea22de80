"""Images that are arrays already: a NumPy file of pixels and labels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.names import printable

_LAYOUT = (
    "Write one by numpy.savez(path, images=numbers of shape (N, H, W) or (N, H, W, 3), labels=of shape (N,))."
)


class ArraysOptions(DatasetOptions):
    """Where the file is.

    Attributes:
        path: an ``.npz`` file with ``images`` (N, H, W) or (N, H, W, C): uint8, or deeper ones, and
            ``labels`` (N,), numbers or texts, or numbers (N, K) for `task: regression`; ``splits`` (N,) of
            ``train``, ``val`` and ``test`` where there is one.
    """

    path: Annotated[Path, Field(strict=False)]


class Arrays(DatasetSource[ArraysOptions]):
    """The images of an ``.npz`` file, in its order; nothing in it is unpickled."""

    options = ArraysOptions

    def load(self, options: ArraysOptions) -> Samples:
        """List the images.

        Raises:
            DataError: no such file, or not one of images and labels.
        """
        try:
            with np.load(options.path, allow_pickle=False) as file:
                names = list(file.files)
                found = {name: file[name] for name in ("images", "labels", "splits") if name in names}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{options.path} can't be read: {error}", hint=_LAYOUT) from None
        except AttributeError:  # a bare .npy comes back as an array, which has no names
            raise DataError(f"{options.path} holds a single array", hint=_LAYOUT) from None
        missing = {"images", "labels"} - set(found)
        if missing:
            raise DataError(
                f"{options.path} has no {' and no '.join(sorted(missing))}; it has:"
                f" {printable(', '.join(names)) or 'nothing'}",
                hint=_LAYOUT,
            )
        images, labels = found["images"], found["labels"]
        if images.dtype.kind not in "uif" or images.ndim not in (3, 4) or not images.size:
            raise DataError(
                f"{options.path}: images are {images.dtype} of shape {images.shape}", hint=_LAYOUT
            )
        several = labels.ndim == 2 and labels.dtype.kind in "uif" and len(labels) == len(images)
        if labels.shape != (len(images),) and not several:
            raise DataError(
                f"{options.path}: {plural(len(images), 'image')} and labels of shape {labels.shape}"
            )
        names = [f"image {index}" for index in range(len(images))]
        splits = _splits(found.get("splits"), options.path, len(images))
        # All alike, they would be taken for copies of each other.
        blank = _without_pixels(images)
        broken = tuple(f"{names[at]}: has no finite pixel" for at in blank)
        if len(blank) == len(images):
            raise DataError(
                f"{options.path}: no image has a finite pixel", hint="They hold NaN or infinity alone."
            )
        if blank:
            kept = sorted(set(range(len(images))) - set(blank))
            images, labels, names = images[kept], labels[kept], [names[at] for at in kept]
            splits = None if splits is None else [splits[at] for at in kept]
        if several:
            columns = [f"label {number}" for number in range(labels.shape[1])]
            return Samples(
                list(images), labels.tolist(), names=names, splits=splits, columns=columns, broken=broken
            )
        named, indices = np.unique(labels, return_inverse=True)
        if len(named) < 2:
            raise DataError(
                f"{options.path} has {plural(len(named), 'class', 'classes')}; at least 2 are needed"
            )
        return Samples(
            items=list(images),
            labels=[int(index) for index in indices],
            classes=tuple(str(name) for name in named),
            names=names,
            splits=splits,
            broken=broken,
        )


def _without_pixels(images: NDArray[Any]) -> list[int]:
    """Positions of images (N, ...) all of whose pixels are NaN or infinite."""
    if images.dtype.kind != "f":
        return []
    return [at for at, image in enumerate(images) if not np.isfinite(image).any()]


def _splits(given: Any, path: Path, count: int) -> list[str] | None:
    if given is None:
        return None
    splits = [str(split) for split in given.ravel()]
    unknown = set(splits) - {"train", "val", "test"}
    if unknown or len(splits) != count:
        what = f"{', '.join(sorted(unknown))} in" if unknown else f"{len(splits)} of {count}"
        raise DataError(f"{path}: {what} splits; right are train, val and test, one for each image")
    return splits
