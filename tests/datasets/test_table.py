import os

import pandas
import pytest
from PIL import Image

from tlsearch.datasets.table import Table, TableOptions
from tlsearch.errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png", "d.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def load(folder, text, *, name="table.csv", **options):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return Table().load(TableOptions.model_validate({"path": str(path), **options}))


def test_csv_keeps_labels_as_they_are_written(folder):
    samples = load(folder, "image,label,extra\na.png,NA,1\nb.png,007,2\nsub/c.png,None,3\nd.png,7,4\n")
    assert samples.classes == ("007", "7", "NA", "None")
    assert [samples.classes[label] for label in samples.labels] == ["NA", "007", "None", "7"]
    assert samples.items == [folder / name for name in ("a.png", "b.png", "sub/c.png", "d.png")]
    assert samples.names == ["a.png", "b.png", "sub/c.png", "d.png"]
    assert samples.splits is None
    assert samples.groups is None


def test_tsv_with_a_byte_order_mark_and_own_column_names(folder):
    samples = load(
        folder,
        "\ufefffile\tkind\tpatient\tpart\na.png\tx, y\tp1\ttrain\nb.png\tz\t\tdev\n",
        name="t.tsv",
        image_column="file",
        label_column="kind",
        group_column="patient",
        split_column="part",
    )
    assert samples.classes == ("x, y", "z")
    assert samples.groups == ["p1", ""]
    assert samples.splits == ["train", "val"]


def test_parquet(folder):
    frame = pandas.DataFrame(
        {"image": ["a.png", "b.png", "d.png", None], "label": pandas.array([1, 2, None, 1], dtype="Int64")}
    )
    frame.to_parquet(folder / "t.parquet")
    samples = Table().load(TableOptions(path=folder / "t.parquet"))
    assert samples.classes == ("1", "2")
    assert samples.broken == ("row 3 (d.png): no label", "row 4: no image path")


def test_splits_are_used_where_there_is_such_a_column(folder):
    text = "image,label,split\na.png,x,train\nb.png,y,Train\nsub/c.png,x,validation\nd.png,y,test\n"
    assert load(folder, text).splits == ["train", "train", "val", "test"]


def test_broken_rows_are_named(folder):
    os.mkfifo(folder / "fifo")
    outside = folder.parent / f"{folder.name}-outside.png"
    Image.new("RGB", (4, 4)).save(outside)
    (folder / "link.png").symlink_to(outside)
    inside = folder / "d.png"
    rows = ["a.png,x", "b.png,y", "gone.png,x", "d.png,", ",x", f"../{outside.name},x", f"{outside},x"]
    rows += ["link.png,x", "fifo,x", "sub,x", f"{inside},y"]
    samples = load(folder, "image,label\n" + "\n".join(rows) + "\n")
    assert samples.names == ["a.png", "b.png", str(inside)]
    expected = ["no such file", "no label", "no image path", *["leads out of"] * 3, "FIFO", "a directory"]
    assert len(samples.broken) == len(expected)
    for row, (line, reason) in enumerate(zip(samples.broken, expected, strict=True), start=3):
        assert line.startswith(f"row {row}")
        assert reason in line
    outside.unlink()


def test_root(folder, tmp_path_factory):
    table = tmp_path_factory.mktemp("tables") / "t.csv"
    table.write_text("image,label\na.png,x\nb.png,y\n")
    assert Table().load(TableOptions(path=table, root=folder)).items == [folder / "a.png", folder / "b.png"]
    with pytest.raises(DataError, match="no such file") as caught:
        Table().load(TableOptions(path=table))
    assert str(table.parent) in caught.value.hint


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("img,label\na.png,x\n", {}, 'no column "image"; it has: img, label'),
        ("image,labels\na.png,x\n", {}, 'Did you mean "labels"'),
        ("image,label\na.png,x\nb.png,y\n", {"split_column": "split"}, 'no column "split"'),
        ("image,label\na.png,x\nb.png,y\n", {"group_column": "g"}, 'no column "g"'),
        ("image,label,split\na.png,x,trian\nb.png,y,train\n", {}, 'row 1: split is "trian".*\n.*"train"'),
        ("image,label,split\na.png,x,\nb.png,y,train\n", {}, 'row 1: split is ""'),
        ("image,label,split\na.png,x,val\nb.png,y,test\n", {}, 'no usable row with split "train"'),
        ("image,label\na.png,x\nb.png,x\n", {}, "1 class"),
        ("image,label\n", {}, "0 classes"),
        ("", {}, "can't be parsed"),
        ('image,label\n"a.png,x\n', {}, "can't be parsed"),
    ],
)
def test_tables_that_cannot_be_used(folder, text, options, reason):
    with pytest.raises(DataError, match=reason) as caught:
        load(folder, text, **options)
    assert "table.csv" in caught.value.message


def test_cells_beyond_the_header_are_never_dropped(folder):
    for text in ("image,label\na.png,x,more\nb.png,y\n", "image,label\na.png,x\nb,b.png,y\n"):
        with pytest.raises(DataError, match=r"more cells than its header|Expected 2 fields"):
            load(folder, text)


def test_files_that_are_no_tables(folder):
    (folder / "t.csv").write_bytes(b"image,label\n\xff\xfe,x\n")
    (folder / "t.parquet").write_bytes(b"image,label\n")
    for name, reason in {
        "none.csv": "can't be read",
        "t.csv": "can't be parsed",
        "t.parquet": "can't be",
        "a.png": "must end in",
        "sub": "must end in",
    }.items():
        with pytest.raises(DataError, match=reason):
            Table().load(TableOptions(path=folder / name))
