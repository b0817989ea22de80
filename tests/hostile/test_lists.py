"""Tables and folders that were made to break or to leave their root."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.hostile.conftest import TRIED, Damage, damages
from tlsearch.datasets.folder import Folder, FolderOptions
from tlsearch.datasets.table import Table, TableOptions
from tlsearch.errors import DataError


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder of two pictures beside a secret one, with links out of it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (4, 4)).save(root / name)
    (root / "out").symlink_to(tmp_path)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "loop").symlink_to(root)
    return root


def taken(path: Path, root: Path, **options: str) -> list[Path]:
    """The items of a table, none of which may lie outside; an error of ours is no item."""
    try:
        samples = Table().load(TableOptions.model_validate({"path": str(path), "root": str(root), **options}))
    except DataError:
        return []
    for item in samples.items:
        assert item.resolve(strict=True).is_relative_to(root.resolve())
        assert item.is_file()
    json.dumps([*samples.names, *samples.classes, *samples.broken], ensure_ascii=False).encode()
    assert len(samples.items) == len(samples.labels) == len(samples.names)
    return list(samples.items)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
odd = ["..", ".", "/", "root", "sub", "out", "loop", "a.png", "secret.png", "out.png", "/etc/passwd"]
odd += ["/proc/self/environ", "~", "$HOME", "C:\\", "\\\\h", "%2e%2e", "a" * 300]
paths = st.lists(st.one_of(st.sampled_from(odd), words), min_size=1, max_size=5).map("/".join)


@given(rows=st.lists(st.tuples(paths, words), max_size=6))
@TRIED
def test_no_path_in_a_table_leaves_the_root(root: Path, rows: list[tuple[str, str]]):
    frame = pandas.DataFrame([("a.png", "x"), ("sub/b.png", "y"), *rows], columns=["image", "label"])
    frame.to_csv(root.parent / "fuzzed.csv", index=False)
    taken(root.parent / "fuzzed.csv", root)


@pytest.mark.parametrize("leaving", ["../secret.png", "out/secret.png", "out.png", "loop/../secret.png"])
def test_the_ways_out_are_closed(root, leaving):
    for path in (leaving, str(root / leaving)):
        (root.parent / "t.csv").write_text(f"image,label\na.png,x\nsub/b.png,y\n{path},x\n")
        samples = Table().load(TableOptions(path=root.parent / "t.csv", root=root))
        assert samples.items == [root / "a.png", root / "sub/b.png"]
        assert "leads out of" in samples.broken[0]


def test_a_path_through_a_file_is_no_file(root):
    (root.parent / "t.csv").write_text("image,label\na.png,x\nsub/b.png,y\na.png/../a.png,x\n")
    samples = Table().load(TableOptions(path=root.parent / "t.csv", root=root))
    assert samples.items == [root / "a.png", root / "sub/b.png"]
    assert samples.broken == ("row 3 (a.png/../a.png): can't be read (Not a directory)",)


VALID = b'image,label,split,group\na.png,x,train,1\nsub/b.png,y,test,2\n"a.png",z,val,\n'


def parquet() -> bytes:
    file = io.BytesIO()
    pandas.DataFrame({"image": ["a.png", "sub/b.png"], "label": ["x", "y"], "size": [1.5, None]}).to_parquet(
        file
    )
    return file.getvalue()


PARQUET = parquet()


@given(damage=damages)
@TRIED
def test_damaged_text_tables(root: Path, damage: Damage):
    for name in ("t.csv", "t.tsv"):
        content = VALID if name == "t.csv" else VALID.replace(b",", b"\t")
        (root.parent / name).write_bytes(damage(content))
        taken(root.parent / name, root)
        taken(root.parent / name, root, group_column="group")


@given(damage=damages)
@TRIED
def test_damaged_parquet_tables(root: Path, damage: Damage):
    (root.parent / "t.parquet").write_bytes(damage(PARQUET))
    taken(root.parent / "t.parquet", root)


@given(content=st.binary(max_size=80), ending=st.sampled_from(["csv", "tsv", "parquet", "xls", ""]))
@TRIED
def test_anything_as_a_table(root: Path, content: bytes, ending: str):
    path = root.parent / f"any.{ending}"
    path.write_bytes(content)
    taken(path, root)


names = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
HOSTILE = [
    b"'; DROP TABLE studies; --",
    b"-rf",
    b"a\nb",
    b"\xff\xfe",
    b"`id`",
    b"$(id)",
    b"<script>",
    b"a b",
    b"CON",
]


@given(
    folders=st.lists(st.one_of(names, st.sampled_from(HOSTILE)), min_size=2, max_size=4, unique=True),
    file=names,
)
@TRIED
def test_folders_and_files_of_any_name(tmp_path_factory, folders: list[bytes], file: bytes):
    root = tmp_path_factory.mktemp("names")
    for name in folders:
        if name in (b".", b".."):
            continue
        (Path(os.fsdecode(os.fsencode(root) + b"/" + name))).mkdir()
        with open(os.fsencode(root) + b"/" + name + b"/_" + file, "wb") as target:
            target.write(b"x")
    try:
        samples = Folder().load(FolderOptions(path=root))
    except DataError as error:
        said = str(error)
    else:
        assert all(item.is_file() for item in samples.items)
        said = json.dumps([*samples.names, *samples.classes], ensure_ascii=False)
    said.encode()  # may be printed and stored
