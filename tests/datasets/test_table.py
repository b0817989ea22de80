import os
import shutil
import unicodedata

import pandas
import pytest
from PIL import Image

from tlsearch import tables
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
        ("photo,label\na.png,x\n", {}, 'no column "image"; it has: photo, label'),
        ("path,file,label\na.png,b.png,x\n", {}, "path, file might each be the image"),
        ("img,label\na.png,x\n", {"image_column": "image"}, 'no column "image"; it has: img, label'),
        ("image,labels\na.png,x\n", {}, 'Did you mean "labels"'),
        ("image,label\na.png,x\nb.png,y\n", {"split_column": "split"}, 'no column "split"'),
        ("image,label\na.png,x\nb.png,y\n", {"group_column": "g"}, 'no column "g"'),
        ("image,label,split\na.png,x,trian\nb.png,y,train\n", {}, 'row 1: split is "trian".*\n.*"train"'),
        ("image,label,split\na.png,x,\nb.png,y,train\n", {}, 'row 1: split is ""'),
        ("image,label,split\na.png,x,val\nb.png,y,test\n", {}, 'no usable row with split "train"'),
        ("image,label\na.png,x\nb.png,x\n", {}, "1 class"),
        ("image,label\n", {}, "0 classes"),
        ("", {}, "is empty"),
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
    (folder / "t.csv").write_bytes(b"image,label\n\xff\x81,x\n")
    os.mkfifo(folder / "fifo.csv")
    (folder / "t.parquet").write_bytes(b"image,label\n")
    for name, reason in {
        "none.csv": "can't be read",
        "t.csv": "no text in UTF-8, UTF-16, UTF-32 or cp1252",
        "fifo.csv": "FIFO",
        "t.parquet": "can't be",
        "a.png": "must end in",
        "sub": "must end in",
    }.items():
        with pytest.raises(DataError, match=reason):
            Table().load(TableOptions(path=folder / name))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_and_named_where_it_is_not_the_usual_one(folder, name, separator):
    rows = [("image", "label"), ("a.png", "x"), ("b.png", "y")]
    samples = load(folder, "".join(f'"{a}"{separator} "{b}"\n'.replace(" ", "") for a, b in rows), name=name)
    assert samples.classes == ("x", "y")
    usual = {"t.csv": ",", "t.tsv": "\t"}[name]
    assert any("between its cells" in note for note in samples.notes) == (separator != usual)


def test_a_comma_in_a_semicolon_file_is_text(folder):
    samples = load(folder, "image;label, kind\na.png;x, 1\nb.png;y\n", label_column="label, kind")
    assert samples.classes == ("x, 1", "y")


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-32", "utf-32"),
        ("utf-32-le", "utf-32-le"),
        ("utf-32-be", "utf-32-be"),
        ("cp1252", "cp1252"),
    ],
)
def test_encodings_are_found_and_named(folder, encoding, named):
    (folder / "t.csv").write_bytes("image,label\na.png,käse\nb.png,y\n".encode(encoding))
    samples = Table().load(TableOptions(path=folder / "t.csv"))
    assert samples.classes == ("käse", "y")
    assert len(samples.notes) == (named is not None)
    assert named is None or f"is in {named}" in samples.notes[0]


@pytest.mark.parametrize("column", ["file_name", "File Name", "path", "filename", "image_path"])
def test_columns_are_found_by_usual_names_and_said(folder, column):
    samples = load(folder, f"{column},Class\na.png,x\nb.png,y\n")
    assert samples.names == ["a.png", "b.png"]
    told = "\n".join(samples.notes)
    assert f'"{column}" of table.csv is the image' in told
    assert '"Class" of table.csv is the label' in told


def test_a_split_column_that_means_something_else_is_switched_off(folder):
    text = "image,label,split\na.png,x,left\nb.png,y,right\n"
    with pytest.raises(DataError) as caught:
        load(folder, text)
    assert "split_column: null" in caught.value.hint
    assert load(folder, text, split_column=None).splits is None


def test_paths_as_other_tools_write_them_are_found(folder):
    samples = load(folder, f"image,label\nfile://{folder}/a.png,x\n/b.png,y\n/sub/c.png,x\n")
    assert samples.items == [folder / "a.png", folder / "b.png", folder / "sub" / "c.png"]
    assert "2 paths in table.csv: a slash at the beginning is left out" in samples.notes
    assert "1 path in table.csv: URLs of files are read as their paths" in samples.notes


def test_pictures_in_a_column_are_told_of(folder):
    frame = pandas.DataFrame({"image": [{"bytes": b"x", "path": "a.png"}] * 3, "label": ["x", "y", "x"]})
    frame.to_parquet(folder / "t.parquet")
    with pytest.raises(DataError, match="holds items themselves") as caught:
        Table().load(TableOptions(path=folder / "t.parquet"))
    assert "huggingface" in caught.value.hint


def test_backslashes_and_other_forms_of_accents_are_found(folder):
    accented = unicodedata.normalize("NFD", "grün")
    (folder / accented).mkdir()
    Image.new("RGB", (4, 4)).save(folder / accented / "é.png")  # composed, in a decomposed folder
    samples = load(folder, "image,label\nsub\\c.png,x\ngrün/é.png,y\n")
    assert samples.broken == ()
    assert samples.items == [folder / "sub/c.png", folder / accented / "é.png"]
    told = "\n".join(samples.notes)
    assert "1 path in table.csv: backslashes" in told
    assert "1 path in table.csv: accents" in told
    with pytest.raises(DataError, match="no such file"):
        load(folder, "image,label\n..\\x.png,x\na.png,y\n")


def test_rows_that_are_there_twice_are_counted(folder):
    assert load(folder, "image,label\na.png,x\nb.png,y\n").notes == ()
    samples = load(folder, "image,label\na.png,x\nb.png,y\n" + "a.png,x\nb.png,y\n")
    assert samples.notes == ("2 of 4 rows in table.csv repeat an earlier row's image",)


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "\ufeffSEP=;\n", "sep=;;\n"])
def test_the_line_that_tells_spreadsheets_the_separator_is_no_header(folder, first):
    samples = load(folder, first + "image;label\na.png;x, y\nb.png;z\n")
    assert samples.classes == ("x, y", "z")
    assert "understood: table.csv has semicolons between its cells" in samples.notes
    assert load(folder, "sep=,\nimage,label\na.png,x\nb.png,y\n").notes == ()


def test_two_columns_of_one_name_are_refused_where_they_are_wanted(folder):
    for text in ("image,label,label\na.png,x,y\nb.png,y,x\n", "image, label,label\na.png,x,y\nb.png,y,x\n"):
        with pytest.raises(DataError, match='2 columns "label"'):
            load(folder, text)
    with pytest.raises(DataError, match='2 columns "split"'):
        load(folder, "image,label,split,split\na.png,x,train,test\nb.png,y,train,test\n")
    other = load(folder, "image,note,label,note\na.png,1,x,2\nb.png,3,y,4\n")
    assert other.classes == ("x", "y")
    numbered = load(folder, "image,label,label.1\na.png,x,1\nb.png,y,2\n", label_column="label.1")
    assert numbered.classes == ("1", "2")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (r"C:\data\a.png", "C: is of Windows and isn't here"),
        ("d:/data/a.png", "d: is of Windows and isn't here"),
        (r"\\server\share\a.png", r"\\server is of Windows and isn't here"),
        ("https://example.com/a.png", "a URL, not a file"),
        ("gone.png", "no such file"),
    ],
)
def test_paths_of_other_machines_are_told_from_missing_files(folder, written, reason):
    (line,) = load(folder, f"image,label\na.png,x\nb.png,y\n{written},x\n").broken
    assert reason in line


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_of_a_size_that_no_memory_holds_is_refused_before_it_is_read(folder, name):
    with (folder / name).open("wb") as file:
        file.truncate(tables.MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"over 500 MB.*\n.*leave out other columns"):
        Table().load(TableOptions(path=folder / name))


def test_a_file_without_an_end_is_read_up_to_the_limit(folder, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="no more is read"):
        load(folder, "image,label\na.png,x\nb.png,y\n")


def test_a_table_without_a_header_and_what_is_no_table_get_the_next_step(folder):
    with pytest.raises(DataError, match="no row that names its columns"):
        load(folder, "a.png,x\nb.png,y\n")
    for name, hint in (("t.csv.gz", "Unpack it"), ("t.zip", "Unpack it"), ("t.xlsx", "Save it as CSV")):
        (folder / name).write_bytes(b"PK")
        with pytest.raises(DataError, match=f"must end in .csv.*\n{hint}"):
            Table().load(TableOptions(path=folder / name))


def test_paths_as_urls_write_them_are_found(folder):
    (folder / "größer b.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "50%25.png").write_bytes((folder / "b.png").read_bytes())
    samples = load(folder, "image,label\na.png,x\ngr%C3%B6%C3%9Fer%20b.png,y\n50%25.png,y\n")
    assert samples.items == [folder / "a.png", folder / "größer b.png", folder / "50%25.png"]
    assert any("1 path in table.csv: percent signs" in note for note in samples.notes)


def test_one_column_is_not_image_and_label(folder):
    with pytest.raises(DataError, match='the column "image" is to be image and label'):
        load(folder, "image,label\na.png,x\nb.png,y\n", label_column="image")


def test_lines_that_end_in_a_bare_carriage_return(folder):
    (folder / "mac.csv").write_bytes(b'image,label,note\ra.png,x,"two\rlines"\rb.png,y,\r')
    samples = Table().load(TableOptions(path=folder / "mac.csv"))
    assert samples.names == ["a.png", "b.png"]
    assert samples.classes == ("x", "y")


@pytest.mark.parametrize("options", [{}, {"image_column": "a.png", "label_column": "x"}])
@pytest.mark.parametrize("text", ["a.png,x\nb.png,y\nd.png,x\n", "x,a.png\ny,b.png\n"])
def test_the_first_row_of_a_table_without_a_header_is_not_lost(folder, text, options):
    with pytest.raises(DataError, match=r"no row that names its columns.*a\.png") as caught:
        load(folder, text, **options)
    assert "image,label" in caught.value.hint


@pytest.mark.parametrize(
    ("cells", "example"),
    [
        (["1,234", "2,500", "17"], "1,234"),
        (["12 kg", "13.5 kg", "7 kg"], "12 kg"),
        (["$1.50", "$2", "$3"], "$1.50"),
        (["10%", "20%", "25%"], "10%"),
        (["1'000.5", "2'000.0", "3.0"], "1'000.5"),
        (["36.6 °C", "37 °C", "38 °C"], "36.6 °C"),
        (["['cat', 'dog']", "[]", '["dog"]'], "['cat', 'dog']"),
    ],
)
def test_amounts_and_lists_are_not_taken_for_names(folder, cells, example):
    rows = [
        f'{image};"{cell.replace(chr(34), chr(34) * 2)}"' for image, cell in zip("abd", cells, strict=True)
    ]
    text = "image;label\n" + "\n".join(row.replace(";", ".png;", 1) for row in rows) + "\n"
    with pytest.raises(DataError) as caught:
        load(folder, text)
    assert f'such as "{example}"' in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "written"),
    [
        (["0,5", "1,5", "0,5"], ("0.5", "1.5")),
        (["3,5", "-4,25", "1"], ("-4.25", "1", "3.5")),
        (["0,125", "2,250", "2,250"], ("0.125", "2.250")),
    ],
)
def test_numbers_with_decimal_commas_are_read_and_said(folder, cells, written):
    text = "image;label\n" + "".join(
        f"{image}.png;{cell}\n" for image, cell in zip("abd", cells, strict=True)
    )
    samples = load(folder, text)
    assert samples.classes == written
    assert f'decimal commas, such as "{cells[0]}"' in " ".join(samples.notes)
    assert "label_separator" in " ".join(samples.notes)


def test_commas_that_may_stand_between_thousands_stay_and_are_said(folder):
    cells = ("1,000", "5,000", "1,000", "1,000", "5,000")
    rows = [f"{image}.png;{cell}" for image, cell in zip("abdab", cells, strict=True)]
    samples = load(folder, "\n".join(["image;label", *rows]))
    assert samples.classes == ("1,000", "5,000")
    assert "write 1000 or 1.000" in " ".join(samples.notes)


@pytest.mark.parametrize("cells", [["a,5", "1,5", "a,5"], ["1.234,5", "x", "x"], ["1,2,3", "1", "1"]])
def test_other_commas_stay_without_a_word(folder, cells):
    samples = load(
        folder, "image;label\n" + "".join(f"{i}.png;{c}\n" for i, c in zip("abd", cells, strict=True))
    )
    assert samples.classes == tuple(sorted(set(cells)))
    assert not any("commas" in note or "taken for names" in note for note in samples.notes)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("image,label\na.png,x\nb.png,x\n", None),
        ("image,label\na.png,x\nlost.png,x\n", None),
        ("image,label\na.png,x\nb.png,\n", None),
        ("image,label\na.png,\nb.png,\n", "label_column"),
        ("image,label\na.png,x\nlost.png,y\n", "Image paths count from"),
        ("image,label\na.png,x\nhttps://somewhere/b.png,y\n", None),
        ("image,label\n", "no rows"),
    ],
)
def test_a_table_of_too_few_classes_gets_a_hint_for_its_own_cause(folder, text, hint):
    with pytest.raises(DataError, match="at least 2 are needed") as caught:
        load(folder, text)
    assert hint in caught.value.hint if hint else caught.value.hint is None


def test_paths_may_count_from_the_one_folder_beside_the_table_that_holds_them(folder, tmp_path):
    inside = tmp_path / "lab"
    (inside / "slides").mkdir(parents=True)
    for name in "ab":
        (inside / "slides" / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    text = "image,label\na.png,x\nb.png,y\n"
    samples = load(inside, text)
    assert [path.parent.name for path in samples.items] == ["slides"] * 2
    assert "image paths count from slides/ beside the table" in samples.notes
    shutil.copytree(inside / "slides", inside / "copies")
    with pytest.raises(
        DataError, match=r"None of the 2 rows of .* can be used; row 1 \(a.png\): no such file"
    ):
        load(inside, text)
    with pytest.raises(DataError, match="there is no folder"):
        load(inside, text, root=inside / "slide")


@pytest.mark.parametrize(
    "cells", [["10mm", "10mm", "12mm"], ["1st", "2nd", "1st"], ["1e5", "007", "1e5"], ["p1", "p2", "p3"]]
)
def test_names_with_digits_stay_names(folder, cells):
    text = "image,label\n" + "".join(
        f"{image}.png,{cell}\n" for image, cell in zip("abd", cells, strict=True)
    )
    assert load(folder, text).classes == tuple(sorted(set(cells)))


def test_empty_rows_below_a_table_are_left_out_and_said(folder):
    samples = load(folder, "image,label\na.png,x\nb.png,y\n,\n,\n,\n")
    assert (len(samples.items), samples.broken) == (2, ())
    assert "left out: 3 empty rows of table.csv" in samples.notes


def test_paths_without_their_endings_are_found_where_one_picture_is_called_so(folder):
    samples = load(folder, "image,label\na,x\nsub/c,y\nb.png,y\n")
    assert samples.items == [folder / "a.png", folder / "sub/c.png", folder / "b.png"]
    assert "2 paths in table.csv: endings such as .jpg are left out" in samples.notes
    Image.new("RGB", (4, 4)).save(folder / "a.jpg")
    samples = load(folder, "image,label\na,x\nsub/c,y\nb.png,x\n")
    assert samples.broken == ("row 1 (a): no such file",)


def test_a_cell_of_any_length_is_read(folder):
    text = f"image,label,{'n' * 200_000}\na.png,x,{'y' * 200_000}\nb.png,y,\n"
    assert load(folder, text).classes == ("x", "y")


def test_a_table_without_anything_says_so(folder):
    with pytest.raises(DataError, match="is empty"):
        load(folder, "\ufeff \n\n")


def test_flags_may_be_words(folder):
    (folder / "f.csv").write_text("image,cat,dog,age\na.png,True,0.0,1\nb.png,False,1.0,2\n")
    assert tables.flag_columns(tables.read_table(folder / "f.csv")) == ["cat", "dog"]


@pytest.mark.parametrize("mark", ["x", "X", "1", "yes"])
def test_columns_with_nothing_but_a_mark_are_flags(folder, mark):
    text = f"image,cat,dog\na.png,{mark},\nb.png,,{mark}\n"
    samples = load(folder, text, label_column=["cat", "dog"])
    assert samples.targets == [("1", "0"), ("0", "1")]
    assert any(f'without "{mark.lower()}"' in note for note in samples.notes)
    assert tables.flag_columns(tables.read_table(folder / "table.csv")) == ["cat", "dog"]
    # Beside zeros an empty cell is missing.
    doubtful = load(folder, "image,cat,dog\na.png,1,0\nb.png,0,1\na.png,1,\n", label_column=["cat", "dog"])
    assert doubtful.broken == ("row 3 (a.png): no label",)


def test_parquet_whose_paths_are_the_index(folder):
    frame = pandas.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"]}).set_index("image")
    frame.to_parquet(folder / "index.parquet")
    assert list(tables.read_table(folder / "index.parquet").columns) == ["image", "label"]


def test_paths_in_another_case_and_cells_that_are_no_paths(folder):
    samples = load(folder, f"image,label\na.PNG,x\nb.png,y\n{'z' * 5000},x\n")
    assert samples.items == [folder / "a.png", folder / "b.png"]
    assert "1 path in table.csv: endings are written in another case than on disk" in samples.notes
    assert len(samples.broken) == 1


@pytest.mark.parametrize(
    ("name", "hint"), [("t.jsonl", "CSV"), ("a.npz", "source: arrays"), ("data.yaml", "folder")]
)
def test_other_files_get_the_next_step(folder, name, hint):
    with pytest.raises(DataError, match="must end in") as caught:
        load(folder, "x", name=name)
    assert hint in caught.value.hint
