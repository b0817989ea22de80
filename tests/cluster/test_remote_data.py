"""Data in an object store: searched as if it lay here, fetched once, and again only where it changed."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from PIL import Image

from tlsearch import artifacts
from tlsearch.errors import DataError
from tlsearch.spec import parse
from tlsearch.training import fetching, sources


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    """An empty place in a real store, and a cache of this test's own."""
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    artifacts._connected.cache_clear()
    yield f"{s3.url}/{uuid.uuid4().hex}"
    artifacts._connected.cache_clear()


def picture(number: int):
    return lambda draft: Image.new("RGB", (8, 8), (number, number, 0)).save(draft, "PNG")


def photos(place: str) -> None:
    for number in range(8):
        artifacts.put(f"{place}/{'cat' if number % 2 else 'dog'}/{number}.png", picture(number))


def listing(**data: str):
    return sources.listing(parse({"study": "s", "data": data, "backbones": ["a/b"]}).data)


def test_a_folder_in_a_store_is_the_same_data_as_on_disk(bucket, tmp_path):
    photos(bucket)
    photos(str(tmp_path / "here"))
    there = listing(source="folder", path=bucket)
    here = listing(source="folder", path=str(tmp_path / "here"))
    assert there.samples.classes == ("cat", "dog")
    assert there.fingerprint == here.fingerprint


def test_only_what_changed_is_fetched_again(bucket):
    photos(bucket)
    root = fetching.local(bucket)
    before = {path.name: path.stat().st_ino for path in root.rglob("*.png")}
    assert len(before) == 8
    time.sleep(1.1)  # stores tell times of change in seconds
    artifacts.put(f"{bucket}/cat/1.png", picture(200))
    artifacts.delete(f"{bucket}/dog/0.png")
    again = fetching.local(bucket)
    after = {path.name: path.stat().st_ino for path in again.rglob("*.png")}
    assert set(before) - set(after) == {"0.png"}
    assert {name for name, inode in after.items() if before[name] != inode} == {"1.png"}
    with Image.open(root / "cat" / "1.png") as image:
        assert image.getpixel((0, 0)) == (200, 200, 0)


def test_a_table_with_its_images_in_a_store(bucket):
    photos(f"{bucket}/images")
    text = "image,label\ndog/0.png,dog\ncat/1.png,cat\n"
    artifacts.put(f"{bucket}/list.csv", lambda draft: draft.write_text(text))
    found = listing(source="table", path=f"{bucket}/list.csv", root=f"{bucket}/images")
    assert found.samples.classes == ("cat", "dog")
    assert all(isinstance(item, Path) and item.is_file() for item in found.samples.items)


@pytest.mark.parametrize("place", ["{bucket}/nowhere", "s3://no-such-bucket-of-ours/x"])
def test_what_is_not_there_is_said(bucket, place):
    with pytest.raises(DataError, match="nothing at"):
        fetching.local(place.format(bucket=bucket))
