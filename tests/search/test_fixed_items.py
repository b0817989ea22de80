"""Data that changes under a study: what is published was measured on the study's own items, or nothing is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_study
from PIL import Image

from tlsearch.database.store import Store
from tlsearch.errors import DataError, SearchError, StudyConflictError
from tlsearch.records import StudyItems
from tlsearch.search import control
from tlsearch.search.progress import Snapshot


def at_the_end(happens: Callable[[], object]) -> Callable[[Snapshot], None]:
    """An observer in whose time something happens just before the winner is verified."""

    def observe(snapshot: Snapshot) -> None:
        if snapshot.phase == "verify the winner" and not snapshot.note:
            happens()

    return observe


def items_of(folder: Path) -> StudyItems:
    with Store.open(tiny_study.url(folder)) as store:
        found = store.items("tiny")
    assert found is not None
    return found


def test_items_that_vanish_or_break_are_named_and_nothing_is_published(tmp_path: Path) -> None:
    pictures, kept = tiny_study.colours(tmp_path / "pictures"), tmp_path / "kept"
    shutil.copytree(pictures, kept)
    study = tiny_study.document(pictures)

    def lose() -> None:
        items = items_of(tmp_path)
        for at in items.of("val")[:2]:
            (pictures / items.names[at]).unlink()
        (pictures / items.names[items.of("val")[2]]).write_bytes(b"cut short")

    with pytest.raises(SearchError, match=r"2 items missing \(.*\); 1 item changed") as caught:
        tiny_study.run(tmp_path, study, observe=at_the_end(lose))
    assert "Put it back" in str(caught.value.hint)
    with Store.open(tiny_study.url(tmp_path)) as store:
        assert store.model("tiny") is None
        assert "2 items missing" in store.study("tiny").reason
    with pytest.raises(StudyConflictError, match="2 items missing"):
        tiny_study.run(tmp_path, study)
    shutil.rmtree(pictures)
    kept.rename(pictures)
    assert tiny_study.run(tmp_path, study).model is not None


def test_what_is_added_during_a_run_changes_no_split(tmp_path: Path) -> None:
    pictures = tiny_study.colours(tmp_path / "pictures")
    rng = np.random.default_rng(1)

    def add() -> None:  # enough to cut other splits, were they cut again
        for index in range(30):
            pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / "red" / f"new{index}.png")

    result = tiny_study.run(tmp_path, tiny_study.document(pictures), observe=at_the_end(add))
    assert result.model is not None
    assert result.best is not None
    assert result.model.metrics["val"]["accuracy"] == result.best.value
    with pytest.raises(StudyConflictError, match="30 items added"):
        tiny_study.run(tmp_path, tiny_study.document(pictures, budget={"trials": 6}))


def test_a_folder_that_is_gone_or_lost_a_class_is_refused(tmp_path: Path) -> None:
    for number, lost in enumerate(("", "red")):
        folder = tmp_path / str(number)
        pictures = tiny_study.colours(folder / "pictures")
        with pytest.raises(SearchError, match="can't be verified"):
            tiny_study.run(
                folder,
                tiny_study.document(pictures),
                observe=at_the_end(lambda place=pictures / lost: shutil.rmtree(place)),
            )
        with Store.open(tiny_study.url(folder)) as store:
            assert store.model("tiny") is None


def test_files_that_were_renamed_are_the_same_items(tmp_path: Path) -> None:
    pictures = tiny_study.colours(tmp_path / "pictures")

    def rename() -> None:
        for path in sorted((pictures / "red").iterdir()):
            path.rename(path.with_name(f"z{path.name}"))

    result = tiny_study.run(tmp_path, tiny_study.document(pictures), observe=at_the_end(rename))
    assert result.model is not None
    again = tiny_study.run(tmp_path, tiny_study.document(pictures, budget={"trials": 6}))
    assert again.model is not None


def test_a_resumed_study_and_a_fork_keep_the_splits(tmp_path: Path) -> None:
    pictures = tiny_study.colours(tmp_path / "pictures")
    tiny_study.run(tmp_path, tiny_study.document(pictures))
    items = items_of(tmp_path)
    assert [len(items.of(name)) for name in ("val", "test")] == [9, 9]
    tiny_study.run(tmp_path, tiny_study.document(pictures, budget={"trials": 6}))
    assert items_of(tmp_path) == items
    control.fork(tiny_study.url(tmp_path), "tiny", "other", overrides={"seed": 5})
    forked = tiny_study.document(pictures, study="other", seed=5, budget={"trials": 3})
    tiny_study.run(tmp_path, forked)
    with Store.open(tiny_study.url(tmp_path)) as store:
        assert store.items("other") == items  # whose scores it is compared with


def test_an_item_that_breaks_while_it_is_read_is_not_kept_as_broken(tmp_path: Path) -> None:
    pictures = tiny_study.colours(tmp_path / "pictures")
    whole = (pictures / "red" / "03.png").read_bytes()

    def cut(snapshot: Snapshot) -> None:
        if snapshot.phase == "load backbones":  # it was hashed, and is to be decoded
            (pictures / "red" / "03.png").write_bytes(whole[:50])

    study = tiny_study.document(pictures)
    with pytest.raises(DataError, match=r"03\.png changed while it was being read"):
        tiny_study.run(tmp_path, study, observe=cut)
    (pictures / "red" / "03.png").write_bytes(whole)
    tiny_study.run(tmp_path, study)
    assert items_of(tmp_path).aside == ()
