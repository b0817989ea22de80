"""The items of a study: fixed once, found again by content, refused with names where they aren't there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlsearch.errors import StudyConflictError
from tlsearch.records import StudyItems
from tlsearch.spec import parse
from tlsearch.training import items, sources
from tlsearch.training.listed import Listed
from tlsearch.training.splits import split


def draw(folder: Path, *, each: int = 6, splits: tuple[str, ...] = ("",)) -> Path:
    rng = np.random.default_rng(0)
    for part in splits:
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for index in range(each):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


def listed(folder: Path) -> Listed:
    data = {"source": "folder", "path": str(folder), "split": {"val": 0.2, "test": 0.2}}
    return sources.listing(parse({"study": "s", "data": data, "backbones": ["a/b"]}).data)


def fixed(found: Listed, *, aside: tuple[int, ...] = ()) -> StudyItems:
    parts = split(found.samples, found.hashes, found.strata, val=0.2, test=0.2, stop=0.1, seed=0)
    return StudyItems.from_json(items.fix(found, parts, aside, None).to_json())


def test_items_are_found_under_other_names_and_among_others(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d")
    known = fixed(listed(folder))
    val = {known.hashes[at] for at in known.of("val")}
    for path in sorted((folder / "a").iterdir(), reverse=True):
        path.rename(folder / "a" / f"z{path.name}")
    draw(tmp_path / "other", each=9)
    (tmp_path / "other" / "b" / "8.png").rename(folder / "b" / "new.png")  # cut anew, splits would be others
    now = listed(folder)
    assert {now.hashes[index] for index in items.located(known, now, "val")} == val
    with pytest.raises(StudyConflictError, match=r"1 item added \(b/new.png\)") as refused:
        items.carried(known, now, None, study="flowers")
    assert "`tlsearch study extend flowers` takes new items in" in str(refused.value.hint)


def test_copies_are_taken_under_their_own_names(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d")
    for copy in ("k", "l", "m"):
        (folder / "a" / f"{copy}.png").write_bytes((folder / "a" / "0.png").read_bytes())
    found = listed(folder)
    known = fixed(found)
    assert items.located(known, found, "train", "stop", "val", "test") == list(range(len(known.names)))
    (folder / "a" / "0.png").unlink()
    with pytest.raises(StudyConflictError, match="1 item missing"):
        items.located(known, listed(folder), "train", "stop", "val", "test")


def test_what_happened_to_items_is_told_with_counts_and_names(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=9)
    known = fixed(listed(folder))
    everything = ("train", "stop", "val", "test")
    for index in range(5):
        (folder / "a" / f"{index}.png").unlink()
    (folder / "a" / "5.png").write_bytes(b"cut short")
    (folder / "b" / "0.png").unlink()
    (folder / "b" / "0.png").mkdir()
    (folder / "b" / "1.png").rename(folder / "a" / "moved.png")
    with pytest.raises(StudyConflictError) as caught:
        items.located(known, listed(folder), *everything)
    said = caught.value.message
    assert "a/0.png, a/1.png, a/2.png and " in said
    assert "1 item changed (a/5.png)" in said
    assert "missing" in said
    assert "Put it back" in str(caught.value.hint)


def test_an_unreadable_item_is_called_so(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d")
    found = listed(folder)
    known = fixed(found)
    found.hashes[3] = items.unreadable_hash(known.names[3])  # root can read all files
    with pytest.raises(StudyConflictError, match=r"1 item unreadable \(a/3.png\)"):
        items.located(known, found, known.splits[3])


def test_splits_are_carried_not_cut_again(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d")
    found = listed(folder)
    known = fixed(found, aside=(2,))
    swapped = tuple({"val": "test", "test": "val"}.get(name, name) for name in known.splits)
    other = StudyItems(**{**known.to_json(), "splits": swapped})
    carried = items.carried(other, found, None, study="flowers")
    assert carried.parts["val"].tolist() == [at for at, name in enumerate(known.splits) if name == "test"]
    assert carried.aside == (2,)
    assert carried.set_aside([2], found) == {2}
    assert carried.set_aside([], found) == {2}
    with pytest.raises(StudyConflictError, match=r"1 item undecodable \(a/1.png\)"):
        carried.set_aside([1, 2], found)


def test_splits_of_the_data_that_were_changed_are_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", splits=("train", "test"))
    known = fixed(listed(folder))
    items.carried(known, listed(folder), None, study="flowers")
    (folder / "test" / "a" / "0.png").rename(folder / "train" / "a" / "moved.png")
    with pytest.raises(StudyConflictError, match=r"1 item in another split \(train/a/moved.png\)"):
        items.carried(known, listed(folder), None, study="flowers")


def test_source_data_is_fixed_too(tmp_path: Path) -> None:
    found, source = listed(draw(tmp_path / "d")), listed(draw(tmp_path / "s", each=3))
    parts = split(found.samples, found.hashes, found.strata, val=0.2, test=0.2, stop=0.1, seed=0)
    known = items.fix(found, parts, (), source)
    items.carried(known, found, source, study="flowers")
    for other in (None, found):
        with pytest.raises(StudyConflictError, match="source data has changed"):
            items.carried(known, found, other, study="flowers")


def add(folder: Path, kind: str, names: list[str], *, seed: int) -> None:
    (folder / kind).mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def grown(known: StudyItems, folder: Path) -> items.Growth:
    return items.grown(known, ("a", "b"), listed(folder), seed=0)


def test_known_items_keep_their_splits_and_new_ones_fill_the_shares(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=10)
    known = fixed(listed(folder))
    before = dict(zip(known.names, known.splits, strict=True))
    add(folder, "a", [f"0{n}" for n in range(10)], seed=1)
    add(folder, "b", ["one"], seed=2)  # too few to be split by themselves
    add(folder, "c", [f"{n}" for n in range(10)], seed=3)
    found = grown(known, folder)
    names = [str(name) for name in found.listed.samples.names]
    where = {names[at]: split for split, indices in found.parts.items() for at in indices.tolist()}
    assert {name: where[name] for name in before} == before
    assert sorted(where) == sorted(names)
    assert len(found.new) == 21
    assert found.new_names == ("c",)
    for kind, total in (("a", 20), ("c", 10)):
        for part in ("val", "test"):
            assert sum(where[name] == part for name in names if name.startswith(kind)) == 0.2 * total
    assert where["b/one.png"] == "train"  # test and val have their share of eleven
    assert grown(known, folder).parts["test"].tolist() == found.parts["test"].tolist()


def test_a_new_copy_goes_where_the_known_item_is(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=10)
    known = fixed(listed(folder))
    test = known.names[known.of("test")[0]]
    (folder / "a" / "zcopy.png").write_bytes((folder / test).read_bytes())
    if not test.startswith("a/"):
        (folder / "a" / "zcopy.png").rename(folder / "b" / "zcopy.png")
    found = grown(known, folder)
    (new,) = found.new
    assert new in found.parts["test"]


def test_a_changed_label_is_told_and_the_item_keeps_its_split(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=10)
    known = fixed(listed(folder))
    at = known.of("val")[0]
    was = known.names[at]
    other = {"a": "b", "b": "a"}[known.labels[at]]
    (folder / was).rename(folder / other / "moved.png")
    found = grown(known, folder)
    assert found.new == ()
    assert found.relabelled == ((f"{other}/moved.png", known.labels[at], other),)
    (index,) = [i for i, name in enumerate(found.listed.samples.names) if name == f"{other}/moved.png"]
    assert index in found.parts["val"]


def test_a_class_that_is_gone_is_told_by_name_and_count(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=10)
    add(folder, "c", [f"{n}" for n in range(10)], seed=3)
    found = listed(folder)
    known = fixed(found)
    for path in (folder / "c").iterdir():
        path.unlink()
    (folder / "c").rmdir()
    (folder / "a" / "0.png").unlink()
    with pytest.raises(StudyConflictError, match=r'10 items of "c" missing, which are all of it') as caught:
        items.grown(known, ("a", "b", "c"), listed(folder), seed=0)
    assert "1 item missing (a/0.png)" in caught.value.message
    assert "with all of its items" in str(caught.value.hint)


def test_what_is_nothing_new_or_other_data_is_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d")
    known = fixed(listed(folder))
    with pytest.raises(StudyConflictError, match=r"Nothing is new: .* has the study's 12 items"):
        grown(known, folder)
    (folder / "a" / "list.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudyConflictError, match=r"no others but 1 item that can't be used \(.*list\.png"):
        grown(known, folder)
    other = tmp_path / "other"
    other.mkdir()
    for kind in ("a", "b"):
        add(other, kind, [f"{n}" for n in range(6)], seed=7)
    with pytest.raises(StudyConflictError, match="has none of the study's 12 items: it is other data"):
        grown(known, other)


def test_what_could_not_be_decoded_may_be_taken_out(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=10)
    found = listed(folder)
    known = fixed(found, aside=(2,))
    (folder / known.names[2]).unlink()
    add(folder, "a", ["new"], seed=1)
    assert len(grown(known, folder).new) == 1


def test_items_that_the_data_moves_to_another_split_are_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "d", each=10, splits=("train", "test"))
    known = fixed(listed(folder))
    add(folder / "train", "a", ["other"], seed=4)
    (folder / "test" / "a" / "0.png").rename(folder / "train" / "a" / "moved.png")
    with pytest.raises(StudyConflictError, match="1 item in another split"):
        items.grown(known, ("a", "b"), listed(folder), seed=0)
    (folder / "train" / "a" / "moved.png").rename(folder / "test" / "a" / "0.png")
    add(folder / "test", "a", ["new"], seed=5)
    found = items.grown(known, ("a", "b"), listed(folder), seed=0)
    assert len(set(found.new) & set(found.parts["test"].tolist())) == 1


def test_splits_by_time_are_not_extended(tmp_path: Path) -> None:
    found = listed(draw(tmp_path / "d"))
    times = [datetime(2024, 1, 1, tzinfo=UTC).timestamp() + at for at in range(len(found.hashes))]
    dated = replace(found, samples=replace(found.samples, times=times))
    with pytest.raises(StudyConflictError, match="splits are by time") as caught:
        items.grown(fixed(found), ["a", "b"], dated, seed=0)
    assert "`tlsearch run` begins another" in str(caught.value.hint)
