import itertools
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from tests.identified import identified
from tlsearch.contracts import Strata
from tlsearch.contracts.dataset import NoOptions, Samples
from tlsearch.contracts.images import ImageInput
from tlsearch.datasets.digits import Digits
from tlsearch.datasets.folder import Folder, FolderOptions
from tlsearch.errors import DataError, SpecError
from tlsearch.spec import DataSpec
from tlsearch.tasks.classification import Classification
from tlsearch.training import data, sources, splits
from tlsearch.training import listed as listing
from tlsearch.training.arrays import ArrayStore

HALF = (0.5, 0.5, 0.5)
INPUTS = ImageInput(16, HALF, HALF)


TASK = Classification()


def strata_of(samples: Samples) -> Strata:
    return TASK.strata(np.asarray(samples.targets), samples.spec)


def fingerprint(samples: Samples, **more: int) -> tuple[str, list[str]]:
    return listing.fingerprint(samples, TASK, **more)


def listed(labels, *, contents=None, classes=None, **more) -> tuple[Samples, list[str]]:
    """Samples of text, and their hashes; contents are unique unless given."""
    contents = contents if contents is not None else [f"item {index}" for index in range(len(labels))]
    samples = Samples(
        items=[str(content) for content in contents],
        labels=list(labels),
        classes=classes or tuple(f"class {label}" for label in range(max(labels) + 1)),
        names=[f"name {index}" for index in range(len(labels))],
        **more,
    )
    return samples, fingerprint(samples)[1]


def cut(samples, hashes, *, val=0.2, test=0.2, stop=0.1, seed=0):
    return splits.split(samples, hashes, strata_of(samples), val=val, test=test, stop=stop, seed=seed)


def permuted(samples: Samples, order: list[int]) -> Samples:
    def pick(values):
        return None if values is None else [values[index] for index in order]

    return replace(
        samples,
        items=pick(samples.items),
        labels=pick(samples.labels),
        names=pick(samples.names),
        splits=pick(samples.splits),
        groups=pick(samples.groups),
    )


def test_fingerprint_is_of_content_and_label_not_of_order_or_path(tmp_path):
    labels = [0, 1, 1, 0, 2] * 40
    samples, hashes = listed(labels)
    whole, _ = fingerprint(samples)
    order = list(range(200))
    random.Random(0).shuffle(order)
    moved, moved_hashes = fingerprint(permuted(samples, order), threads=4)
    assert moved == whole
    assert moved_hashes == [hashes[index] for index in order]
    assert fingerprint(replace(samples, names=["x"] * 200))[0] == whole
    assert fingerprint(replace(samples, labels=[1, *labels[1:]]))[0] != whole
    assert fingerprint(replace(samples, items=["other", *samples.items[1:]]))[0] != whole
    # Class indices may differ where the names are the same.
    renamed = replace(samples, labels=[2 - label for label in labels], classes=samples.classes[::-1])
    assert fingerprint(renamed)[0] == whole


def test_item_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    os.mkfifo(tmp_path / "fifo")
    array = np.arange(6, dtype=np.uint8)
    items = [
        *(tmp_path / "a", b"abc", "abc", array.reshape(2, 3), array.reshape(3, 2), array.astype(np.uint16)),
        *(array.reshape(2, 3).copy(order="F"), tmp_path / "fifo", tmp_path / "none"),
    ]
    samples = Samples(items=items, labels=[0] * 9, classes=("x",), names=[str(i) for i in range(9)])
    _, hashes = fingerprint(samples)
    assert hashes[0] == hashes[1] == hashes[2]
    assert hashes[3] == hashes[6]
    assert len(set(hashes)) == 6
    with pytest.raises(DataError, match="8 is a float"):
        fingerprint(replace(samples, items=[*items[:8], 1.5]))


@st.composite
def data_sets(draw):
    """Labels with enough of each class, some identical contents, some groups."""
    sizes = draw(st.lists(st.integers(5, 40), min_size=2, max_size=5))
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    copies = draw(st.integers(0, 6))
    rng = random.Random(draw(st.integers(0, 1000)))
    contents = list(range(len(labels)))
    for _ in range(copies):  # of the same class, so that every class keeps enough distinct items
        one = rng.randrange(len(labels))
        contents.append(contents[one])
        labels.append(labels[one])
    groups = None
    if draw(st.booleans()):
        # Up to 4 items of a class in a group; at least 5 groups or single items remain.
        groups = [""] * len(labels)
        for label, size in enumerate(sizes):
            for number, index in enumerate(
                i for i, other in enumerate(labels[: sum(sizes)]) if other == label
            ):
                if size >= 20:
                    groups[index] = f"{label}/{number // 4}"
    return listed(labels, contents=contents, groups=groups)


@settings(max_examples=80, deadline=None)
@given(data_sets(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_split_properties(case, seed, rng):
    samples, hashes = case
    parts = cut(samples, hashes, seed=seed)
    assert set(parts) == {"train", "stop", "val", "test"}
    # Every item stands in exactly one.
    everything = np.concatenate(list(parts.values()))
    assert sorted(everything.tolist()) == list(range(len(samples.items)))
    # Identical contents and groups stay together.
    where = {index: name for name, indices in parts.items() for index in indices.tolist()}
    for keys in (hashes, samples.groups or []):
        places: dict[str, set[str]] = {}
        for index, key in enumerate(keys):
            if key:
                places.setdefault(key, set()).add(where[index])
        assert all(len(place) == 1 for place in places.values())
    # Every class stands in every split that is used to train, select and judge.
    for name in ("train", "val", "test"):
        assert {samples.labels[index] for index in parts[name]} == set(range(len(samples.classes)))
    assert len(parts["stop"]) > 0
    # The order doesn't matter.
    order = list(range(len(samples.items)))
    rng.shuffle(order)
    again = cut(permuted(samples, order), [hashes[index] for index in order], seed=seed)
    for name, indices in parts.items():
        assert sorted(order[index] for index in again[name]) == indices.tolist()


def test_split_is_stratified_and_seeded():
    samples, hashes = listed([0] * 1000 + [1] * 100 + [2] * 40)
    parts = cut(samples, hashes, val=0.15, test=0.25)
    counts = {name: Counter(np.asarray(samples.labels)[indices].tolist()) for name, indices in parts.items()}
    assert counts["test"] == {0: 250, 1: 25, 2: 10}
    assert counts["val"] == {0: 150, 1: 15, 2: 6}
    assert counts["stop"] == {0: 60, 1: 6, 2: 2}
    other = cut(samples, hashes, val=0.15, test=0.25, seed=1)
    assert set(other["val"].tolist()) != set(parts["val"].tolist())
    none = cut(samples, hashes, test=0.0, stop=0.0)
    assert len(none["test"]) == len(none["stop"]) == 0
    assert len(none["val"]) == 228


def test_groups_keep_the_shares_about_right():
    rng = random.Random(0)
    groups = [f"patient {rng.randrange(60)}" for _ in range(900)]
    samples, hashes = listed([index % 3 for index in range(900)], groups=groups)
    parts = cut(samples, hashes)
    assert 0.14 < len(parts["val"]) / 900 < 0.26
    assert 0.14 < len(parts["test"]) / 900 < 0.26
    for one, other in itertools.combinations(parts.values(), 2):
        assert not {groups[index] for index in one} & {groups[index] for index in other}


def test_contents_and_groups_chain():
    # 0-1 share a content, 1-2 a group, 2-3 a content: all four move together.
    contents = [0, 0, 1, 1, *range(2, 30)]
    groups = ["", "g", "g", "", *[""] * 28]
    samples, hashes = listed([0] * 16 + [1] * 16, contents=contents, groups=groups)
    for seed in range(20):
        parts = cut(samples, hashes, seed=seed)
        assert sum(bool(set(indices.tolist()) & {0, 1, 2, 3}) for indices in parts.values()) == 1


def test_a_rare_class_is_not_used_up_by_mixed_groups():
    labels = [0, 0, 0, 1] * 4 + [0] * 84  # class 1 only ever in groups with class 0
    groups = [f"g{index // 4}" for index in range(16)] + [""] * 84
    samples, hashes = listed(labels, groups=groups)
    parts = cut(samples, hashes)
    assert {name: sum(labels[i] for i in parts[name]) for name in ("val", "test")} == {"val": 1, "test": 1}
    assert sum(labels[index] for index in parts["train"]) + sum(labels[i] for i in parts["stop"]) == 2


def test_given_splits_are_kept_and_missing_ones_cut_from_train():
    labels = [index % 2 for index in range(100)]
    samples, hashes = listed(labels, splits=["train"] * 80 + ["test"] * 20)
    parts = cut(samples, hashes)
    assert parts["test"].tolist() == list(range(80, 100))
    assert len(parts["val"]) == 16
    assert len(parts["stop"]) == 6
    assert max(parts["val"].max(), parts["stop"].max(), parts["train"].max()) < 80
    whole, hashes = listed(labels, splits=["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    parts = cut(whole, hashes)
    assert parts["val"].tolist() == list(range(60, 80))
    assert len(parts["train"]) == 54
    with pytest.raises(DataError, match='"train"'):
        cut(*listed(labels, splits=["val"] * 50 + ["test"] * 50))


@pytest.mark.parametrize(
    ("count", "test", "fits"), [(3, 0.2, True), (2, 0.2, False), (2, 0.0, True), (1, 0.0, False)]
)
def test_tiny_classes(count, test, fits):
    samples, hashes = listed([0] * 30 + [1] * count, classes=("big", "tiny"))
    if fits:
        parts = cut(samples, hashes, test=test)
        assert all(1 in np.asarray(samples.labels)[parts[name]] for name in ("train", "val"))
        assert 1 not in np.asarray(samples.labels)[parts["stop"]]
    else:
        needed = 3 if test else 2
        with pytest.raises(DataError, match=f'"tiny" has {count} distinct .* {needed} are needed'):
            cut(samples, hashes, test=test)


@pytest.mark.parametrize(("name", "told"), [("0.13", True), ("tiny", False)])
def test_a_class_that_is_a_number_may_be_an_amount(name, told):
    with pytest.raises(DataError, match=f'"{name}" has 1 distinct') as caught:
        cut(*listed([0] * 30 + [1], classes=("0.25", name)))
    assert ("task: regression" in (caught.value.hint or "")) is told


def test_copies_of_one_image_are_not_enough():
    samples, hashes = listed([0] * 10 + [1] * 10, contents=[*range(10), *["same"] * 10])
    with pytest.raises(DataError, match='"class 1" has 1 distinct'):
        cut(samples, hashes)


def test_stop_is_found_among_tiny_classes_too():
    samples, hashes = listed([0] * 4 + [1] * 4)
    parts = cut(samples, hashes)
    assert {name: len(indices) for name, indices in parts.items()} == {
        "train": 2,
        "stop": 2,
        "val": 2,
        "test": 2,
    }


@pytest.mark.parametrize("shares", [{"val": 0.6, "test": 0.4}, {"val": -0.1}, {"stop": 1.0}])
def test_impossible_shares(shares):
    with pytest.raises(DataError, match="must leave"):
        cut(*listed([0, 1] * 20), **shares)


def test_high_shares_leave_every_class_an_item_in_train():
    samples, hashes = listed([0] * 3 + [1] * 3)
    parts = cut(samples, hashes, val=0.5, test=0.45, stop=0.0)
    assert {name: len(indices) for name, indices in parts.items()} == {
        "train": 2,
        "stop": 0,
        "val": 2,
        "test": 2,
    }


def audited(samples: Samples, hashes: list[str]) -> data.Audit:
    strata, spec = strata_of(samples), samples.spec
    return data.audit(
        samples, hashes, cut(samples, hashes), strata, lambda index: TASK.plain(samples.targets[index], spec)
    )


def test_audit():
    labels = [0] * 40 + [1] * 4 + [0, 1, 0]
    contents = [*range(44), "clash", "clash", 0]
    splits = ["train"] * 46 + ["test"]
    samples, hashes = listed(labels, contents=contents, splits=splits, classes=("many", "few"))
    audit = audited(samples, hashes)
    assert sum(sum(count.values()) for count in audit.counts.values()) == 47
    assert audit.counts["test"] == {"many": 1, "few": 0}
    assert audit.clashes == (("name 44", "name 45"),)
    assert audit.overlaps == (("name 0", "name 46"),)
    assert audit.imbalance == 42 / 5
    text = "\n".join(audit.warnings)
    assert "1 item appears under different labels, such as name 44 and name 45" in text
    assert "name 0 and name 46" in text
    assert 'test lacks 1 class, such as "few"' in text
    even, hashes = listed([0, 1] * 20)
    assert audited(even, hashes).warnings == ()


@pytest.fixture
def photos(tmp_path) -> Path:
    """60 crops of two photographs, one class each, in folders."""
    for name in ("china", "flower"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for index in range(30):
            photo.crop((index * 8, index * 4, index * 8 + 90, index * 4 + 70)).save(
                tmp_path / "photos" / name / f"{index:02d}.jpg", quality=90
            )
    return tmp_path / "photos"


def prepared(samples: Samples, store: ArrayStore, inputs: ImageInput = INPUTS, **options) -> data.Data:
    progress = options.pop("progress", None)
    return data.make_data(identified(samples, TASK, **options), inputs, store, seed=0, progress=progress)


def test_prepare_photographs(photos, tmp_path):
    store = ArrayStore(tmp_path / "store")
    seen: list[tuple[int, int]] = []
    samples = Folder().load(FolderOptions(path=photos))
    result = prepared(samples, store, progress=lambda done, count: seen.append((done, count)))
    assert result.array.shape == (60, 3, 16, 16)
    assert result.array.dtype == np.uint8
    assert not result.array.flags.writeable
    assert all((result.array[index] == INPUTS.encode(samples.items[index])).all() for index in (0, 31, 59))
    assert result.targets.tolist() == [0] * 30 + [1] * 30
    assert {name: len(indices) for name, indices in result.indices.items()} == {
        "train": 32,
        "stop": 4,
        "val": 12,
        "test": 12,
    }
    assert seen[-1] == (60, 60)
    assert result.mirror
    assert result.broken == ()
    # The second time nothing is decoded.
    again = prepared(samples, store, progress=lambda done, count: pytest.fail("decoded again"))
    assert again.key == result.key
    assert np.array_equal(again.array, result.array)


def test_a_study_says_how_pictures_become_squares_and_it_is_part_of_the_key(photos, tmp_path):
    store = ArrayStore(tmp_path / "store")
    loaded = {}
    for resize in (None, "crop", "pad"):
        section = {"source": "folder", "path": str(photos), "split": {"val": 0.2, "test": 0.2}}
        described = DataSpec.model_validate(section if resize is None else section | {"resize": resize})
        loaded[resize] = data.make_data(sources.listing(described), INPUTS, store, seed=0)
    assert loaded[None].key == loaded["crop"].key != loaded["pad"].key
    assert loaded["pad"].inputs == INPUTS.resized("pad")
    assert loaded["pad"].inputs.to_json()["resize"] == "pad"


def test_a_key_stands_for_contents_order_and_encoding(photos, tmp_path):
    store = ArrayStore(tmp_path / "store")
    samples = Folder().load(FolderOptions(path=photos))
    first = prepared(samples, store)
    turned = prepared(permuted(samples, list(range(59, -1, -1))), store)
    other = prepared(samples, store, inputs=ImageInput(8, HALF, HALF))
    assert first.fingerprint == turned.fingerprint == other.fingerprint
    assert len({first.key, turned.key, other.key}) == 3
    assert (turned.array[::-1] == first.array).all()
    moved = photos.rename(photos.parent / "elsewhere")
    elsewhere = prepared(Folder().load(FolderOptions(path=moved)), store)
    assert elsewhere.key == first.key
    assert all(np.array_equal(elsewhere.indices[name], first.indices[name]) for name in first.indices)


def damage(folder: Path) -> None:
    (folder / "china/00.jpg").write_bytes(b"")
    (folder / "china/07.jpg").write_bytes((folder / "china/07.jpg").read_bytes()[:900])
    (folder / "flower/29.jpg").write_text("<html>404 Not Found</html>")
    os.mkfifo(folder / "flower/99.jpg")


@pytest.mark.parametrize("again", [False, True])
def test_broken_items_are_set_aside_and_named(photos, tmp_path, again):
    damage(photos)
    samples = Folder().load(FolderOptions(path=photos))
    store = ArrayStore(tmp_path / "store")
    if again:  # what was noted in the store serves as well
        prepared(samples, store, max_broken=0.1)
    result = prepared(samples, store, max_broken=0.1)
    reasons = dict(line.split(": ") for line in result.broken)
    assert list(reasons) == ["flower/99.jpg", "china/00.jpg", "china/07.jpg", "flower/29.jpg"]
    assert "FIFO" in reasons["flower/99.jpg"]
    assert "empty" in reasons["china/00.jpg"]
    assert "truncated" in reasons["china/07.jpg"]
    assert "HTML" in reasons["flower/29.jpg"]
    kept = np.concatenate(list(result.indices.values()))
    assert len(kept) == 57
    assert not {0, 7, 59} & set(kept.tolist())
    assert result.array[[0, 7, 59]].max() == 0


def test_too_many_broken_items(photos, tmp_path):
    damage(photos)
    samples = Folder().load(FolderOptions(path=photos))
    with pytest.raises(DataError, match=r"4 of 61 items are broken \(6.6%\); up to 5%") as caught:
        prepared(samples, ArrayStore(tmp_path / "store"))
    assert "china/00.jpg: is empty" in caught.value.hint


def test_held_out_data_that_was_trained_on(tmp_path):
    pictures = list(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    names = [f"{index}.png" for index in range(46)]
    splits = ["train"] * 30 + ["test"] * 16
    copied = Samples([*pictures, *pictures[:6]], [0, 1] * 23, ("a", "b"), names, splits)
    store = ArrayStore(tmp_path / "store")
    with pytest.raises(
        DataError, match="6 of 16 items of test are copies of items of train; up to 5%"
    ) as caught:
        prepared(copied, store, val=0)
    assert str(caught.value.hint).startswith("40.png is 0.png\n41.png is 1.png")
    assert "... and 1 more" in str(caught.value.hint)
    assert "max_overlap" in str(caught.value.hint)
    assert len(prepared(copied, store, max_overlap=0.5).indices["test"]) == 16
    few = replace(copied, items=copied.items[:40], labels=[0, 1] * 20, names=names[:40], splits=splits[:40])
    assert len(prepared(few, store).indices["test"]) == 10


def test_a_class_that_vanishes_or_a_split_that_empties(photos, tmp_path):
    for path in sorted((photos / "china").iterdir()):
        path.write_bytes(b"broken " + path.name.encode())
    samples = Folder().load(FolderOptions(path=photos))
    with pytest.raises(DataError, match='"china" has no usable item in train') as caught:
        prepared(samples, ArrayStore(tmp_path / "store"), max_broken=0.9)
    assert "... and 25 more" in caught.value.hint
    given = replace(samples, splits=["val"] * 30 + ["train"] * 30)
    with pytest.raises(DataError, match="no usable item is left in val"):
        prepared(given, ArrayStore(tmp_path / "store"), max_broken=0.9)


def test_a_bug_of_a_plugin_is_no_broken_image(photos, tmp_path):
    class Buggy(ImageInput):
        def encode(self, item):
            raise ZeroDivisionError

    samples = Folder().load(FolderOptions(path=photos))
    store = ArrayStore(tmp_path / "store")
    with pytest.raises(ZeroDivisionError) as caught:
        prepared(samples, store, inputs=Buggy(16, HALF, HALF))
    assert "china/" in caught.value.__notes__[0] or "flower/" in caught.value.__notes__[0]
    assert list(store.root.glob("draft-*")) == []


def test_arrays_as_items(tmp_path):
    samples = Digits().load(NoOptions())
    result = prepared(samples, ArrayStore(tmp_path / "store"))
    assert sum(len(indices) for indices in result.indices.values()) == 1797
    assert 340 < len(result.indices["val"]) < 380


def test_load_data_from_a_study_file(photos, tmp_path):
    described = DataSpec.model_validate(
        {"source": "folder", "path": str(photos), "split": {"val": 0.3}, "horizontal_flip": False}
    )
    result = data.make_data(sources.listing(described), INPUTS, ArrayStore(tmp_path / "store"), seed=0)
    assert result.target_spec.names == ("china", "flower")
    assert len(result.indices["val"]) == 18
    assert not result.mirror


def test_keys_that_a_source_does_not_take(photos):
    described = DataSpec.model_validate({"source": "folder", "pathh": str(photos)})
    with pytest.raises(SpecError, match=r'data.pathh: .*Did you mean "path"'):
        sources.listing(described)
