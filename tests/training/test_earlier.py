"""Items of an extended study: found by content, and not decoded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tlsearch.contracts.images import ImageInput
from tlsearch.records import StudyItems
from tlsearch.spec import parse
from tlsearch.training import items, sources
from tlsearch.training.arrays import ArrayStore
from tlsearch.training.data import Data, make_data
from tlsearch.training.earlier import Extended, earlier
from tlsearch.training.listed import Listed

INPUTS = ImageInput(8, (0.5,) * 3, (0.5,) * 3)


def draw(folder: Path, names: Sequence[str], *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def listed(folder: Path) -> Listed:
    data = {"source": "folder", "path": str(folder), "max_broken": 0.3}
    return sources.listing(parse({"study": "s", "data": data, "backbones": ["a/b"]}).data)


def load(found: Listed, store: ArrayStore, extended: Extended | None = None) -> tuple[Data, list[int]]:
    """The encoded items, and how many had to be decoded."""
    totals: list[int] = []
    data = make_data(
        found, INPUTS, store, seed=0, extended=extended, progress=lambda done, total: totals.append(total)
    )
    return data, totals


def test_only_new_items_are_decoded_and_all_are_as_from_scratch(tmp_path: Path) -> None:
    folder, store = tmp_path / "d", ArrayStore(tmp_path / "store")
    draw(folder, [f"{n}" for n in range(9)], seed=0)
    (folder / "a" / "broken.png").write_bytes(b"no picture")
    before = listed(folder)
    data, totals = load(before, store)
    assert set(totals) == {19}
    known = items.fix(before, data.parts, data.aside, None)
    draw(folder, ["0new", "5new"], seed=1)  # they stand between the others
    extended = Extended("s", before.fingerprint, before.target_spec.names, known)
    now = listed(folder)
    grown, totals = load(now, store, extended)
    assert set(totals) == {5}  # the broken one is tried again
    fresh, totals = load(now, ArrayStore(tmp_path / "other"))
    assert set(totals) == {23}
    np.testing.assert_array_equal(grown.array, fresh.array)
    assert grown.aside == fresh.aside
    assert grown.earlier is not None
    _, totals = load(now, ArrayStore(tmp_path / "empty"), extended)  # as on another machine
    assert set(totals) == {23}


def test_positions_are_those_of_items_that_activations_were_stored_of() -> None:
    splits = ("train", "test", "val", "stop", "train")
    known = StudyItems(("n",) * 5, ("c0", "c1", "c2", "c3", "c4"), ("x",) * 5, splits, aside=(4,))
    found = earlier(Extended("s", "f", ("x",), known), ["new", "c3", "c1", "c0", "c4", "c2"], key="k")
    assert found.rows.tolist() == [-1, 3, 1, 0, 4, 2]
    # c1 is a test item and c4 was set aside: nothing is stored of them.
    assert found.positions(np.arange(6)).tolist() == [-1, 2, -1, 0, -1, 1]
