import os
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from tlsearch.datasets.folder import Folder, FolderOptions
from tlsearch.errors import DataError


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def load(root: Path):
    return Folder().load(FolderOptions(path=root))


def test_options_take_the_strings_of_a_study_file(tmp_path):
    assert FolderOptions.model_validate({"path": str(tmp_path)}).path == tmp_path
    with pytest.raises(ValidationError):
        FolderOptions.model_validate({"path": str(tmp_path), "pth": 1})
    with pytest.raises(ValidationError):
        FolderOptions.model_validate({"path": 3})


def test_class_folders(tmp_path):
    put(tmp_path, "dog/b.png", "dog/a.jpg", "cat/deep/er/x.png", "cat/no_ending", "Zebra/ü 猫.png")
    samples = load(tmp_path)
    assert samples.classes == ("Zebra", "cat", "dog")
    assert samples.names == ["Zebra/ü 猫.png", "cat/deep/er/x.png", "cat/no_ending", "dog/a.jpg", "dog/b.png"]
    assert samples.labels == [0, 1, 1, 2, 2]
    assert samples.items == [tmp_path / name for name in samples.names]
    assert samples.splits is None
    assert samples.broken == ()


def test_what_lies_beside_images_is_no_image(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "a/.hidden.png", ".git/x.png", "a/.thumbs/y.png", "stray.png")
    for name in ("a/notes.txt", "a/Thumbs.db", "a/README", "b/meta.JSON", "LICENSE"):
        (tmp_path / name).write_text("x")
    assert load(tmp_path).names == ["a/1.png", "b/1.png"]


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    os.rename(os.fsencode(tmp_path / "a/1.png"), os.fsencode(tmp_path) + b"/a/\xff.png")
    samples = load(tmp_path)
    assert samples.names[0] == "a/\\xff.png"
    assert samples.items[0].exists()


def test_a_class_may_be_called_like_what_lies_beside_images(tmp_path):
    put(
        tmp_path,
        "license/1.png",
        "Invoice/Readme.png",
        "Invoice/1.v2.jpg",
        "copying/x.txt/1.png",
        "a.db/1.png",
    )
    samples = load(tmp_path)
    assert samples.classes == ("Invoice", "a.db", "copying", "license")
    assert len(samples.items) == 5
    assert samples.notes == ()


def test_what_systems_keep_beside_pictures_is_left_out_and_counted(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x/1.png")
    put(tmp_path, "a/.thumbnails/1.png", "b/._1.png", "__MACOSX/a/1.png", "b/.DS_Store", "stray.png")
    put(tmp_path, "a/Thumbs.db", "a/desktop.ini", "#recycle/c/1.png", "a/notes.txt")
    samples = load(tmp_path)
    assert samples.names == ["a/1.png", "b/1.png"]
    told = "\n".join(samples.notes)
    for part in (
        "1 file in folders called @eaDir",
        "1 file in folders called .thumbnails",
        "1 file ending in .txt, such as a/notes.txt",
        "1 file beside the class folders, such as stray.png",
        "4 files hidden or kept by the system",
    ):
        assert part in told


def test_spellings_that_look_the_same_are_one_class(tmp_path):
    put(tmp_path, "Caf\u00e9/1.png", "Cafe\u0301/2.png", "tea/1.png")
    samples = load(tmp_path)
    assert samples.classes == ("Caf\u00e9", "tea")
    assert len(samples.items) == 3
    assert all(item.exists() for item in samples.items)
    assert "2 folders are spelt alike" in samples.notes[0]


def test_the_reason_why_no_image_of_a_class_can_be_taken(tmp_path):
    put(tmp_path / "data", "a/1.png", "b/1.png")
    put(tmp_path, "photos/1.png")
    (tmp_path / "data/b/1.png").unlink()
    (tmp_path / "data/b/1.png").symlink_to(tmp_path / "photos/1.png")
    with pytest.raises(
        DataError, match=r"/b holds no image that can be taken, of 1: b/1.png: leads out"
    ) as caught:
        load(tmp_path / "data")
    assert "cp -rL" in caught.value.hint


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "valid", "holdout"),
        ("train_set", "dev", "hold-out"),
        ("trainset", "eval", "test_images"),
    ],
)
def test_splits_by_any_name(tmp_path, train, val, test):
    put(tmp_path, *(f"{split}/{label}/1.png" for split in (train, val, test) for label in "ab"))
    samples = load(tmp_path)
    given = {name.split("/")[0]: split for name, split in zip(samples.names, samples.splits, strict=True)}
    assert given == {train: "train", val: "val", test: "test"}
    assert any("understood as splits" in note for note in samples.notes) == (train != "train")


def test_what_stands_beside_splits_is_left_out_and_counted(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "Test/7.png", "Test/8.png", "stray.png")
    put(tmp_path, "val/a/2.png", "val/b/2.png", "extra/1.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "1.xml").write_text("x")
    samples = load(tmp_path)
    assert set(samples.splits) == {"train", "val"}
    told = "\n".join(samples.notes)
    assert "2 files in a split without class folders, such as Test/" in told
    assert "2 files in folders beside the splits, such as annotations/" in told
    assert "1 file beside the class folders, such as stray.png" in told


def test_the_user_may_say_what_folders_are(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "car/1.png")
    classes = Folder().load(FolderOptions(path=tmp_path, splits=False))
    assert classes.classes == ("car", "train")
    assert Folder().load(FolderOptions(path=tmp_path, splits=True)).classes == ("a", "b")
    with pytest.raises(DataError, match="no train/"):
        Folder().load(FolderOptions(path=tmp_path / "train", splits=True))


def test_classes_one_folder_deeper_are_pointed_at(tmp_path):
    put(tmp_path, "archive/a/1.png", "archive/b/1.png")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert f"Did you mean {tmp_path / 'archive'}?" in caught.value.hint


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits(tmp_path, val):
    put(tmp_path, *(f"{split}/{label}/1.png" for split in ("train", val, "test") for label in "ab"))
    (tmp_path / "annotations").mkdir()
    samples = load(tmp_path)
    assert dict(zip(samples.names, samples.splits, strict=True)) == {
        "test/a/1.png": "test",
        "test/b/1.png": "test",
        "train/a/1.png": "train",
        "train/b/1.png": "train",
        f"{val}/a/1.png": "val",
        f"{val}/b/1.png": "val",
    }
    assert samples.classes == ("a", "b")


def test_train_alone_leaves_the_rest_to_the_core(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png")
    assert load(tmp_path).splits == ["train", "train"]


def test_train_may_be_a_class(tmp_path):
    put(tmp_path, "train/1.png", "car/1.png")
    assert load(tmp_path).classes == ("car", "train")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "0|no folder"),
        (["a/1.png"], '"a".*at least 2'),
        (["1.png", "2.png"], "at least 2"),
        (
            ["cat/1.png", "dog/1.png", "test/1.png"],
            'folder \\("test"\\) beside 2 folders .*splits or classes',
        ),
        (["Cat/1.png", "Dog/1.png", "Holdout/Cat/1.png"], "splits or classes"),
        (["train/1.png", "test/1.png"], "without class folders"),
        ([f"{s}/{x}/1.png" for s in ("train", "Training") for x in "ab"], "more than one training"),
        (["all/train/a/1.png", "all/test/a/1.png"], "at least 2 are needed"),
        ([f"{x}/{s}/1.png" for s in ("train", "test") for x in "ab"], "hold splits of their own"),
        (["train/a/1.png", "train/b/1.png", "test/a/1.png"], 'test lacks 1 folder \\("b"\\)'),
        (
            ["train/a/1.png", "train/b/1.png", *(f"test/{x}/1.png" for x in "abc")],
            'train lacks 1 folder \\("c"\\)',
        ),
        (["val/a/1.png", "test/a/1.png"], "no train"),
        (["train/a/1.png", "train/b/1.png", "car/1.png"], "splits or classes"),
        ([f"{s}/{x}/1.png" for s in ("train", "val", "valid") for x in "ab"], "more than one validation"),
    ],
)
def test_layouts_that_cannot_be_used(tmp_path, names, reason):
    put(tmp_path, *names)
    with pytest.raises(DataError, match=reason) as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_no_such_folder_a_file_and_an_empty_class(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="/c holds no image"):
        load(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="not a folder"):
        load(tmp_path / "a/1.png")


def test_links_loops_and_fifos(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "outside"
    put(root, "a/1.png", "b/1.png", "b/more/2.png")
    put(outside, "secret.png")
    (root / "a/out.png").symlink_to(outside / "secret.png")
    (root / "a/out_folder").symlink_to(outside)
    (root / "a/up.png").symlink_to("../../outside/secret.png")
    (root / "a/in.png").symlink_to("../b/1.png")
    (root / "a/in_folder").symlink_to("../b/more")
    (root / "a/self").symlink_to("self")
    (root / "a/around").symlink_to("../a")
    (root / "a/above").symlink_to("..")  # with what is of other classes
    (root / "a/gone.png").symlink_to("nothing.png")
    os.mkfifo(root / "a/fifo.png")
    samples = load(root)
    assert samples.names == ["a/1.png", "a/in.png", "a/in_folder/2.png", "b/1.png", "b/more/2.png"]
    reasons = dict(line.split(": ", 1) for line in samples.broken)
    refused = ["out.png", "out_folder", "up.png", "self", "around", "above", "gone.png", "fifo.png"]
    assert set(reasons) == {f"a/{name}" for name in refused}
    assert all("leads out" in reasons[f"a/{name}"] for name in ("out.png", "out_folder", "up.png"))
    assert "loop" in reasons["a/self"]
    assert "loop" in reasons["a/around"]
    assert "loop" in reasons["a/above"]
    assert "link to nothing" in reasons["a/gone.png"]
    assert "FIFO" in reasons["a/fifo.png"]


def test_a_whole_class_is_never_lost_to_a_link(tmp_path):
    put(tmp_path / "data", "a/1.png", "b/1.png")
    put(tmp_path, "elsewhere/1.png")
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="/c is a link that leaves"):
        load(tmp_path / "data")


def test_the_root_itself_may_be_a_link(tmp_path):
    put(tmp_path / "data", "a/1.png", "b/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert load(tmp_path / "link").names == ["a/1.png", "b/1.png"]


def test_folds_of_a_cross_validation_are_no_classes(tmp_path):
    for fold in ("fold1", "Fold_2", "fold-10"):
        put(tmp_path, f"{fold}/cat/{fold}.png", f"{fold}/dog/{fold}.png")
    with pytest.raises(
        DataError, match=r"3 folders .*fold1.*2 folders \(.cat., .dog.\) each.*cross-validation"
    ) as error:
        load(tmp_path)
    assert "group_column" in error.value.hint


def test_classes_that_are_called_like_folds_are_told(tmp_path):
    put(tmp_path, "part1/1.png", "part2/1.png")
    samples = load(tmp_path)
    assert samples.classes == ("part1", "part2")
    assert samples.notes == (
        '2 folders ("part1", "part2") are taken as classes, and are called like parts of a data set',
    )


def test_the_same_folders_in_all_classes_are_told(tmp_path):
    put(tmp_path, "ann/benign/1.png", "ann/malignant/1.png", "bob/benign/1.png", "bob/malignant/1.png")
    assert "if these are the classes, put them above" in load(tmp_path).notes[0]
    put(tmp_path, "cyd/benign/1.png")
    assert load(tmp_path).notes == ()


def test_a_hidden_folder_beside_the_classes_is_counted(tmp_path):
    put(tmp_path, "dog/1.png", "bird/1.png", ".cat/1.png", ".cat/2.png")
    assert load(tmp_path).notes == (
        "left out: 2 files in folders that are hidden or kept by the system, such as .cat/",
    )


def test_a_class_folder_without_an_image_tells_what_it_holds(tmp_path):
    put(tmp_path, "images/1.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1.txt").write_text("a cat on a mat")
    with pytest.raises(DataError, match=r"labels holds no image, but files ending in \.txt") as error:
        load(tmp_path)
    assert "Annotations" in error.value.hint


def test_classes_that_are_deeper_are_pointed_at(tmp_path):
    put(tmp_path, "data/images/train/cat/1.png", "data/images/train/dog/1.png")
    with pytest.raises(DataError, match=r"Did you mean .*data/images/train\?"):
        load(tmp_path)
    (tmp_path / "loop" / "a").mkdir(parents=True)
    (tmp_path / "loop" / "a" / "a").symlink_to(tmp_path / "loop" / "a")
    with pytest.raises(DataError, match="at least 2"):
        load(tmp_path / "loop")


@pytest.mark.parametrize("shape", ["{name}_{number:03d}.jpg", "{name}.{number}.jpg", "{number} {name}.jpg"])
def test_names_that_tell_the_class_are_seen_where_there_is_no_folder(tmp_path, shape):
    for name in ("cat", "Russian_Blue"):
        for number in range(4):
            (tmp_path / shape.format(name=name, number=number)).write_bytes(b"")
    with pytest.raises(DataError, match="holds no folder") as refused:
        load(tmp_path)
    assert "8 files lie right in it" in str(refused.value.hint)
    assert 'their names hold "Russian_Blue", "cat": are these the classes?' in str(refused.value.hint)


def test_names_that_tell_nothing_are_not_taken_for_classes(tmp_path):
    for name in ("IMG_1.jpg", "IMG_2.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as refused:
        load(tmp_path)
    assert "2 files lie right in it: put each into a folder of its class" in str(refused.value.hint)
