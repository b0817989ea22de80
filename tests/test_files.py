from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tlsearch.errors import InputError
from tlsearch.files import disk_is_full, refuse_unwritable, sha256_of, write_durably


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_checksum_and_size(tmp_path):
    content = os.urandom(3_000_000)
    path = tmp_path / "a" / "b" / "weights"
    artifact = write_durably(path, lambda draft: draft.write_bytes(content))
    assert path.read_bytes() == content
    assert artifact.uri == str(path)
    assert artifact.bytes == len(content)
    assert artifact.sha256 == hashlib.sha256(content).hexdigest() == sha256_of(path)
    assert names(path.parent) == ["weights"]


def test_nobody_sees_half_a_file(tmp_path):
    path = tmp_path / "weights"
    path.write_text("before")

    def write(draft: Path) -> None:
        draft.write_text("aft")
        assert path.read_text() == "before"
        draft.write_text("after")

    write_durably(path, write)
    assert path.read_text() == "after"


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "weights"
    path.write_text("before")

    def write(draft: Path) -> None:
        draft.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_durably(path, write)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["weights"]


def test_a_writer_that_writes_nothing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "weights", lambda draft: None)
    assert names(tmp_path) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(OSError, match="No space left"):
        # The device that is always full.
        write_durably(tmp_path / "here" / "w", lambda draft: Path("/dev/full").write_bytes(b"x" * 100_000))
    assert names(tmp_path / "here") == []


def test_a_full_disk_is_an_error_of_the_system_whoever_tells_it(tmp_path: Path) -> None:
    def rust(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left") as caught:
        write_durably(tmp_path / "weights", rust)
    assert disk_is_full(caught.value)
    assert not disk_is_full(OSError("something else"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_for_a_page_is_looked_at_before_there_is_one(tmp_path):
    refuse_unwritable(tmp_path / "new" / "deep" / "page.html")
    (tmp_path / "page.html").write_text("before")
    refuse_unwritable(tmp_path / "page.html")
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "page.html" / "x", "Not a directory")):
        with pytest.raises(InputError, match=why):
            refuse_unwritable(path)
    assert names(tmp_path) == ["page.html"]
