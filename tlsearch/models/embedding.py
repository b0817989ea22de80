"""Embeddings of items: what a finished model's trunk makes of them, before its head; and which are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tlsearch.errors import InputError
from tlsearch.files import write_durably
from tlsearch.models.ensemble import Ensemble
from tlsearch.models.model import Model

ENDINGS = (".parquet", ".npz")


def embed(model: Model, items: Sequence[object]) -> tuple[list[int], NDArray[np.float32], dict[int, str]]:
    """Positions of the items that can be read, their embeddings (n, width), what is wrong with the others.

    They are the features that the head is given; of a model that averages several networks, the first one's.
    """
    kept, found, errors = model.readable(items, _trunk(model))
    return kept, found if kept else np.zeros((0, model.network.info.width), np.float32), errors


def _trunk(model: Model) -> Callable[[Tensor], Tensor]:
    network = model.network
    return network.features if isinstance(network, Ensemble) else network.trunk


def alike(one: NDArray[np.float32], many: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine similarities (N,) of an embedding (width,) to others (N, width); of zeros 0."""
    lengths = np.linalg.norm(many, axis=1) * np.linalg.norm(one)
    products = many @ one
    found: NDArray[np.float32] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return found


def refuse_ending(path: Path) -> None:
    """Refuse a file that embeddings can't be written to, before any are made.

    Raises:
        InputError: it has another ending, or its folder isn't there.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"Embeddings go to a file that ends in {' or '.join(ENDINGS)}, not to {path.name}.",
            hint="--output embeddings.parquet",
        )
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent}.", hint="Make it, or name another with --output.")


def write(path: Path, names: Sequence[str], embeddings: NDArray[np.float32]) -> None:
    """Write names and embeddings.

    Parquet has the columns ``item`` and ``embedding`` (a list of float32); a NumPy archive has the arrays
    ``items`` (N,) and ``embeddings`` (N, width).

    Raises:
        InputError: it can't be written.
    """
    try:
        if path.suffix.lower() == ".npz":
            write_durably(path, lambda draft: _archive(draft, names, embeddings))
        else:
            write_durably(path, lambda draft: _parquet(draft, names, embeddings))
    except OSError as error:
        raise InputError(f"Can't write {path}: {error.strerror or error}.") from None


def _archive(path: Path, names: Sequence[str], embeddings: NDArray[np.float32]) -> None:
    with path.open("wb") as file:  # given a path, NumPy would put an ending of its own behind it
        np.savez(file, items=np.asarray(names, dtype=np.str_), embeddings=embeddings)


def _parquet(path: Path, names: Sequence[str], embeddings: NDArray[np.float32]) -> None:
    import pyarrow
    from pyarrow import parquet

    width = embeddings.shape[1]
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(embeddings.ravel()), width)
    parquet.write_table(pyarrow.table({"item": pyarrow.array(list(names)), "embedding": column}), path)
