"""Artifacts in a folder and in an object store: the same behaviour, whatever breaks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tlsearch import artifacts
from tlsearch.errors import BundleError, InputError
from tlsearch.models import stored
from tlsearch.training import checkpoints
from tlsearch.training.checkpoints import Checkpoints


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path, monkeypatch) -> Iterator[str]:
    """An empty place of either kind."""
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        yield str(tmp_path / "shared")
        return
    server = request.getfixturevalue("s3")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    artifacts._connected.cache_clear()
    yield f"{server.url}/{uuid.uuid4().hex}"
    artifacts._connected.cache_clear()


def writing(text: str) -> Callable[[Path], object]:
    return lambda draft: draft.write_text(text)


def overwrite(uri: str, text: str) -> None:
    """Change a file behind our back."""
    artifacts.put(uri, writing(text))


def test_what_was_put_is_listed_read_and_deleted(place):
    assert artifacts.normal(place) == place
    artifacts.check(place)
    assert artifacts.listed(place) == []
    one = artifacts.put(artifacts.join(place, "a", "one.txt"), writing("one"))
    two = artifacts.put(artifacts.join(place, "two.txt"), writing("zwei"), mark=True)
    assert (one.uri, one.bytes) == (f"{place}/a/one.txt", 3)
    assert two.uri == f"{place}/two-{two.sha256}.txt"
    assert artifacts.listed(place) == ["a/one.txt", f"two-{two.sha256}.txt"]
    assert artifacts.listed(f"{place}/a") == ["one.txt"]
    assert artifacts.listed(f"{place}/tw") == []  # a prefix of a name is no place
    assert artifacts.get(one.uri, sha256=one.sha256).read_text() == "one"
    assert artifacts.read(two.uri, sha256=two.sha256) == b"zwei"
    artifacts.delete(one.uri)
    artifacts.delete(one.uri)
    assert artifacts.listed(f"{place}/a") == []
    artifacts.delete_all(place)
    artifacts.delete_all(place)
    assert artifacts.listed(place) == []


def test_what_is_missing_or_changed_is_refused(place):
    written = artifacts.put(f"{place}/weights", writing("weights"))
    overwrite(written.uri, "weighty")
    for reading in (artifacts.get, artifacts.read):
        with pytest.raises(OSError, match="isn't what was written"):
            reading(written.uri, sha256=written.sha256)
        with pytest.raises(FileNotFoundError):
            reading(f"{place}/nothing", sha256=written.sha256)


def test_a_writer_that_fails_leaves_nothing(place):
    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise OSError("No space left on device")

    artifacts.put(f"{place}/kept", writing("whole"))
    with pytest.raises(OSError, match="No space left"):
        artifacts.put(f"{place}/kept", fail)
    assert artifacts.listed(place) == ["kept"]
    assert artifacts.read(f"{place}/kept", sha256=artifacts.put(f"{place}/same", writing("whole")).sha256)


@pytest.mark.parametrize("place", ["store"], indirect=True)
def test_a_bundle_is_fetched_once_and_again_when_its_copy_is_damaged(place, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    weights = artifacts.put(str(bundle / "w"), writing("weights"))
    (bundle / "m").write_text(f'{{"sha256": "{weights.sha256}"}}')
    stored.publish(bundle, f"{place}/model", weights="w", manifest="m")
    for _ in range(2):
        here = stored.fetched(f"{place}/model", weights="w", manifest="m")
        assert (here / "w").read_text() == "weights"
    (here / "w").resolve().write_text("damaged")
    assert (stored.fetched(f"{place}/model", weights="w", manifest="m") / "w").read_text() == "weights"
    (here / "w").resolve().unlink()
    overwrite(f"{place}/model/w", "changed")
    with pytest.raises(BundleError, match="isn't what was written"):
        stored.fetched(f"{place}/model", weights="w", manifest="m")
    with pytest.raises(BundleError, match="not a model bundle"):
        stored.fetched(f"{place}/nothing", weights="w", manifest="m")


def test_checkpoints_are_counted_and_dropped(place):
    for number in (3, 12):
        kept = Checkpoints(place, number, 1, identity={})
        kept.offer(lambda: checkpoints.FitState(1, {}, {}))
        kept.close()
    assert checkpoints.numbers(place) == {3, 12}
    again = Checkpoints(place, 12, 2, identity={}).latest()
    assert again is not None
    assert again.epoch == 1
    checkpoints.drop(place, 3)
    assert checkpoints.numbers(place) == {12}


def test_a_store_that_refuses_is_told_before_any_work(s3, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    artifacts._connected.cache_clear()
    with pytest.raises(InputError, match="s3://no-such-bucket/x can't be written to") as refused:
        artifacts.check("s3://no-such-bucket/x")
    assert "AWS_ACCESS_KEY_ID" in str(refused.value)
    artifacts._connected.cache_clear()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3:bucket/x", "two slashes"),
        ("s3:/bucket", "two slashes"),
        ("s3://", "names no place"),
        ("s3://bucket?x=1", "names no place"),
        ("s4://bucket/x", 'No store is known by "s4://"'),
    ],
)
def test_places_that_cannot_be_are_refused_with_what_would_be_right(given, said):
    with pytest.raises(InputError) as refused:
        artifacts.normal(given)
    assert said in str(refused.value)


def test_places_are_made_comparable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert artifacts.normal("x/../y") == str(tmp_path / "y")
    assert artifacts.normal(Path("y")) == str(tmp_path / "y")
    assert artifacts.normal(f"file://{tmp_path}/y") == str(tmp_path / "y")
    assert artifacts.normal("s3://bucket/prefix/") == "s3://bucket/prefix"
    locked = tmp_path / "file"
    locked.write_text("")
    with pytest.raises(InputError, match="can't be written to"):
        artifacts.check(str(locked / "below"))
