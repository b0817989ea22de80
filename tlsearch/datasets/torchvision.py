"""The classification data sets of ``torchvision.datasets``, by class name, from files already on disk."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlsearch.contracts.dataset import DatasetOptions, DatasetSource, Samples
from tlsearch.counts import kind_of, plural
from tlsearch.errors import DataError, did_you_mean
from tlsearch.images.decoding import as_rgb, is_deep

_SPLIT_NAMES = {
    "train": ("train", "train-standard", "trainval"),
    "val": ("val", "valid"),
    "test": ("test",),
}
"""How the classes with a ``split`` argument call their splits; the first that a class knows is taken."""

_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y", "samples", "_samples")


class TorchvisionOptions(DatasetOptions):
    """Which class, and how to construct it.

    Attributes:
        name: such as ``CIFAR10`` or ``EuroSAT``.
        root: the class's own ``root``: the folder that its files were downloaded to.
        arguments: further arguments of its constructor. With ``train`` or ``split`` among them, only that
            part is used and tlsearch splits it.
    """

    name: str
    root: Annotated[Path | None, Field(strict=False)] = None
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)


class TorchvisionDataset(DatasetSource[TorchvisionOptions]):
    """Any data set of torchvision whose items are one image and one class. Nothing is downloaded.

    A left-right flip is taken to be harmless, which it isn't for digits and letters (MNIST, EMNIST, SVHN):
    set ``horizontal_flip: false`` for those.
    """

    options = TorchvisionOptions

    def load(self, options: TorchvisionOptions) -> Samples:
        """List the items of all parts that the class offers; images are decoded when they are asked for.

        Raises:
            DataError: no such class, its files are missing, or its items aren't images with one class each.
        """
        kind = _class(options.name)
        parts = dict(_parts(kind, options))
        labels = {split: _labels(part, options.name) for split, part in parts.items()}
        used = np.unique(np.concatenate(list(labels.values())))
        if len(used) < 2:
            held = plural(len(used), "class", "classes")
            raise DataError(f"torchvision's {options.name} has {held} here; at least 2 are needed")
        named = getattr(next(iter(parts.values())), "classes", None)
        known = isinstance(named, Sequence) and len(named) > used[-1] and used[0] >= 0
        return Samples(
            items=_Items(list(parts.values())),
            labels=np.searchsorted(used, np.concatenate(list(labels.values()))).tolist(),
            classes=tuple(str(named[label]) if known and named else str(label) for label in used),
            names=[f"{split} {index}".strip() for split, part in parts.items() for index in range(len(part))],
            splits=None
            if "" in parts
            else [split for split, part in parts.items() for _ in range(len(part))],
        )


class _Items(Sequence[Any]):
    """The images of several torchvision data sets in a row, decoded on indexing."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self.ends, index, side="right"))
        try:
            image = self.parts[place][index - (self.ends[place - 1] if place else 0)][0]
        except Exception as error:  # torchvision's loaders let Pillow's many errors through
            raise DataError(f"can't be decoded ({error or type(error).__name__})") from error
        return _array(image)


def _array(image: Any) -> NDArray[Any]:
    from PIL import Image

    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        if image.mode == "L" or is_deep(image):  # deep pixels are scaled by the range of the whole data set
            return np.asarray(image)
        return np.asarray(as_rgb(image))
    raise DataError(f"is {kind_of(image)}, not an image")


def _class(name: str) -> Any:
    import torchvision.datasets

    names = [name for name in torchvision.datasets.__all__ if name != "VisionDataset"]
    kind = getattr(torchvision.datasets, name, None) if name in names else None
    if not inspect.isclass(kind):
        raise DataError(
            f'torchvision.datasets has no "{name}"',
            hint=f"{did_you_mean(name, names)} Listed at https://pytorch.org/vision/stable/datasets.html".strip(),
        )
    return kind


def _parts(kind: Any, options: TorchvisionOptions) -> Iterator[tuple[str, Any]]:
    """Each split with its data set; the one split ``""`` where the class or the options leave no choice."""
    arguments: dict[str, Any] = dict(options.arguments)
    accepted = _parameters(kind)
    if options.root is not None and "root" in accepted:
        arguments["root"] = options.root
    if "download" in accepted:
        arguments["download"] = False
    if "train" in accepted and "train" not in arguments:
        for split, train in (("train", True), ("test", False)):
            yield split, _construct(kind, {**arguments, "train": train}, options)
    elif "split" in accepted and not {"split", "train"} & set(arguments):
        for split, names in _SPLIT_NAMES.items():
            part = _first_known(kind, arguments, names, options, required=split == "train")
            if part is not None:
                yield split, part
    else:
        yield "", _construct(kind, arguments, options)


def _parameters(kind: Any) -> set[str]:
    """Constructor arguments, with those of a base class that ``**kwargs`` go to."""
    names: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names


def _first_known(
    kind: Any, arguments: dict[str, Any], names: Sequence[str], options: TorchvisionOptions, *, required: bool
) -> Any:
    for name in names:
        try:
            return kind(**arguments, split=name)
        except Exception as error:
            if not (isinstance(error, ValueError) and "argument split" in str(error)):
                raise _failure(error, options) from error
            # That is how torchvision refuses a split's name; the next one may fit.
    return _construct(kind, {**arguments, "split": names[0]}, options) if required else None


def _construct(kind: Any, arguments: dict[str, Any], options: TorchvisionOptions) -> Any:
    try:
        return kind(**arguments)
    except Exception as error:  # each class checks its files and arguments in its own way
        raise _failure(error, options) from error


def _failure(error: Exception, options: TorchvisionOptions) -> DataError:
    place = f" from {options.root}" if options.root is not None else ""
    message = f"torchvision's {options.name} can't be loaded{place}: {error or type(error).__name__}"
    if isinstance(error, TypeError):
        return DataError(message, hint="Set root, and what else its constructor needs in arguments.")
    return DataError(
        message,
        hint=f"tlsearch downloads nothing. Fetch it once with torchvision.datasets.{options.name}(root,"
        " download=True), where the class offers that, and set root to the same folder.",
    )


def _labels(part: Any, name: str) -> NDArray[np.int64]:
    """Class number of every item, without decoding the images where the data set has a list of them."""
    length = len(part)
    if length == 0:
        raise DataError(f"torchvision's {name} has a part without items")
    for attribute in _LABEL_ATTRIBUTES:
        values = getattr(part, attribute, None)
        if values is None or len(values) != length:
            continue
        if attribute.endswith("samples"):
            values = [row[-1] for row in values]
        labels = np.asarray(values)
        # The names are habits, not a contract: believe the list only where it agrees with the items.
        if (
            labels.ndim == 1
            and labels.dtype.kind in "iu"
            and int(labels[-1]) == _label(part, length - 1, name)
        ):
            return labels.astype(np.int64)
    return np.array([_label(part, index, name) for index in range(length)], dtype=np.int64)


def _label(part: Any, index: int, name: str) -> int:
    try:
        _, label = part[index]
        return int(label)
    except Exception as error:  # no pair, a label of several numbers, a damaged file
        raise DataError(
            f"torchvision's {name}, item {index}: no image with one class ({error})",
            hint="Data sets for classification can be used, not those of boxes, masks, captions or videos.",
        ) from error
