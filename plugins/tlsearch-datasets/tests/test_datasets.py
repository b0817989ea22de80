"""Both formats, written by the libraries that people write them with, and searched by the same contract."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image
from tlsearch_datasets.huggingface import HuggingFace, HuggingFaceOptions
from tlsearch_datasets.shards import WebDataset, WebDatasetOptions

from tlsearch.contracts.images import decode
from tlsearch.errors import DataError
from tlsearch.spec import DataSpec
from tlsearch.testing import DatasetContract
from tlsearch.training import sources

KINDS = ("cat", "dog", "owl")


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def same(item: object, number: int) -> bool:
    return bool((np.asarray(decode(item)) == np.asarray(picture(number))).all())  # type: ignore[arg-type]


def rows(numbers: range, *, labels: object = None) -> datasets.Dataset:
    kind = labels or datasets.ClassLabel(names=list(KINDS))
    values = [number % 3 if labels is None else KINDS[number % 3] for number in numbers]
    return datasets.Dataset.from_dict(
        {"image": [picture(number) for number in numbers], "label": values},
        features=datasets.Features({"image": datasets.Image(), "label": kind}),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "beans"
    datasets.DatasetDict({"train": rows(range(9)), "validation": rows(range(9, 15))}).save_to_disk(folder)
    return folder


class TestHuggingFace(DatasetContract):
    dataset = "huggingface"

    @classmethod
    def setup_class(cls) -> None:
        super().setup_class()
        rows(range(60)).save_to_disk(cls._folder / "rows")
        cls.options = {"path": str(cls._folder / "rows")}


class TestWebDataset(DatasetContract):
    dataset = "webdataset"

    @classmethod
    def setup_class(cls) -> None:
        super().setup_class()
        items = {}
        for number in range(60):
            items |= {f"{number}.png": png(number), f"{number}.cls": str(number % 3).encode()}
        cls.options = {"path": str(shard(cls._folder / "a.tar", items))}


def hugging(path: Path, **options: object):
    return HuggingFace().load(HuggingFaceOptions(path=path, **options))


def test_what_save_to_disk_wrote(saved):
    samples = hugging(saved)
    assert samples.classes == KINDS
    assert list(samples.labels) == [number % 3 for number in range(15)]
    assert list(samples.splits) == ["train"] * 9 + ["val"] * 6
    assert all(same(samples.items[number], number) for number in range(15))
    assert samples.names[9] == "val 0"


def test_one_split_of_named_labels_is_split_by_content(tmp_path):
    rows(range(6), labels=datasets.Value("string")).save_to_disk(tmp_path / "one")
    samples = hugging(tmp_path / "one")
    assert samples.splits is None
    assert samples.classes == KINDS


def test_a_folder_of_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    rows(range(6)).to_parquet(tmp_path / "files" / "train.parquet")
    samples = hugging(tmp_path / "files")
    assert len(samples.items) == 6
    assert same(samples.items[4], 4)


def test_the_whole_way_into_a_study(saved):
    listed = sources.listing(DataSpec(source="huggingface", path=str(saved)))
    again = sources.listing(DataSpec(source="huggingface", path=str(saved)))
    assert listed.fingerprint == again.fingerprint
    assert len(set(listed.hashes)) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "imgae"}, 'Did you mean "image"'),
        ({"label_column": "image"}, "not labels"),
        ({"image_column": "label"}, "not images"),
    ],
)
def test_wrong_columns(saved, options, message):
    with pytest.raises(DataError) as caught:
        hugging(saved, **options)
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_what_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no folder"):
        hugging(tmp_path / "nothing")
    with pytest.raises(ValueError, match="path, or a name"):
        HuggingFaceOptions()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="nobody/nothing can't be loaded") as caught:
        HuggingFace().load(HuggingFaceOptions(name="nobody/nothing"))
    assert "save_to_disk" in (caught.value.hint or "")


def shard(path: Path, items: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in items.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def webdata(path: Path, **options: object):
    return WebDataset().load(WebDatasetOptions(path=path, **options))


def test_shards_of_the_library_itself(tmp_path):
    for split, numbers in (("train", range(6)), ("val", range(6, 9))):
        with webdataset.TarWriter(str(tmp_path / f"{split}-000.tar")) as sink:
            for number in numbers:
                sink.write({"__key__": f"{number:03d}", "png": picture(number), "cls": number % 3})
    samples = webdata(tmp_path, classes=KINDS)
    assert samples.classes == KINDS
    assert list(samples.splits) == ["train"] * 6 + ["val"] * 3
    assert list(samples.labels) == [number % 3 for number in range(9)]
    assert all(same(samples.items[number], number) for number in range(9))


def test_json_labels_folders_and_what_is_broken(tmp_path):
    path = shard(
        tmp_path / "a.tar",
        {
            "x/1.png": png(1),
            "x/1.json": b'{"kind": "cat"}',
            "y/1.json": b'{"kind": "dog"}',
            "y/1.png": png(2),
            "z/2.png": png(3),
            "z/3.png": png(4),
            "z/3.json": b"[]",
            "z/4.json": b'{"kind": "cat"}',
            "../../evil.png": png(5),
            "../../evil.json": b'{"kind": "cat"}',
        },
    )
    samples = webdata(path, label="json", key="kind")
    assert samples.names == ["a.tar:x/1", "a.tar:y/1", "a.tar:../../evil"]
    assert samples.splits is None
    assert same(samples.items[2], 5)
    assert [line.split(": ")[0] for line in samples.broken] == ["a.tar:z/2", "a.tar:z/3", "a.tar:z/4"]
    assert "no .json" in samples.broken[0]
    assert "no picture" in samples.broken[2]


def test_numbers_sort_as_numbers(tmp_path):
    items = {}
    for number in (10, 9, 2):
        items |= {f"{number}.png": png(number), f"{number}.cls": str(number).encode()}
    assert webdata(shard(tmp_path / "a.tar", items)).classes == ("2", "9", "10")


@pytest.mark.parametrize("content", [None, b"", b"no tar file, but long enough for a header" * 20])
def test_what_is_no_shard(tmp_path, content):
    if content is not None:
        (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError):
        webdata(tmp_path / "a.tar")
