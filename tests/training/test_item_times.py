"""The newest items are measured on: by a column of dates, or by what pictures say of themselves."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.contracts import Samples
from tlsearch.errors import DataError, InputError, SpecError, TlsearchError
from tlsearch.spec import DataSpec
from tlsearch.training import item_times, sources

FIRST = datetime(2024, 1, 1)


def picture(path: Path, number: int, *, taken: datetime | None = None) -> None:
    random = np.random.default_rng(number)
    image = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    exif = image.getexif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken.strftime("%Y:%m:%d %H:%M:%S")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def table(folder: Path, dates: list[str], *, columns: dict[str, list[str]] | None = None) -> Path:
    """A table of pictures of two classes, with a date for each, in no order."""
    more = columns or {}
    lines = [",".join(["image", "label", "taken", *more])]
    for number, date in enumerate(dates):
        picture(folder / f"{number}.jpg", number)
        cells = [f"{number}.jpg", "ab"[number % 2], date, *(column[number] for column in more.values())]
        lines.append(",".join(cells))
    order = np.random.default_rng(0).permutation(np.arange(1, len(lines)))
    (folder / "list.csv").write_text("\n".join([lines[0], *(lines[at] for at in order)]) + "\n")
    return folder / "list.csv"


def days(count: int) -> list[str]:
    return [f"{FIRST + timedelta(days=number):%Y-%m-%d}" for number in range(count)]


def listed(path: Path, **options: Any) -> Samples:
    given = {"source": "table", "time_column": "taken", "split": {"val": 0.2, "test": 0.2}, **options}
    return sources.listing(DataSpec.model_validate({**given, "path": str(path)})).samples


def of(samples: Samples, split: str) -> set[int]:
    """Numbers of the pictures of a split."""
    return {
        int(name.partition(".")[0])
        for name, own in zip(samples.names, samples.splits, strict=True)
        if own == split
    }


def test_the_newest_are_test_and_those_before_them_val(tmp_path: Path) -> None:
    samples = listed(table(tmp_path, days(40)))
    assert of(samples, "train") == set(range(24))
    assert of(samples, "val") == set(range(24, 32))
    assert of(samples, "test") == set(range(32, 40))


def test_items_of_one_time_stay_together(tmp_path: Path) -> None:
    samples = listed(table(tmp_path, [day for day in days(10) for _ in range(5)]))
    assert of(samples, "test") == set(range(40, 50))
    assert of(samples, "val") == set(range(30, 40))
    few = listed(table(tmp_path / "few", [day for day in days(3) for _ in range(10)]))
    assert Counter(few.splits) == {"train": 10, "val": 10, "test": 10}


def test_groups_and_copies_go_where_their_newest_item_does(tmp_path: Path) -> None:
    groups = ["x" if number in (2, 39) else "" for number in range(40)]
    path = table(tmp_path, days(40), columns={"plant": groups})
    (tmp_path / "5.jpg").write_bytes((tmp_path / "27.jpg").read_bytes())
    samples = listed(path, group_column="plant")
    assert {2, 39} <= of(samples, "test")
    assert {5, 27} <= of(samples, "val")


def test_without_a_test_split_the_newest_are_val(tmp_path: Path) -> None:
    samples = listed(table(tmp_path, days(40)), split={"val": 0.25, "test": 0.0})
    assert Counter(samples.splits) == {"train": 30, "val": 10}
    assert of(samples, "val") == set(range(30, 40))


def test_rows_without_a_date_are_set_aside_by_name(tmp_path: Path) -> None:
    dates = days(40)
    dates[7] = "yesterday"
    samples = listed(table(tmp_path, dates))
    (told,) = samples.broken
    assert told.endswith('(7.jpg): "yesterday" is no date such as 2024-05-31')
    assert told.startswith("row ")
    assert len(samples.items) == len(samples.times) == 39


def test_pictures_tell_when_they_were_taken(tmp_path: Path) -> None:
    for number in range(40):
        moment = FIRST + timedelta(hours=number) if number != 3 else None
        picture(tmp_path / "ab"[number % 2] / f"{number}.jpg", number, taken=moment)
    given = {"source": "folder", "path": str(tmp_path), "time": "exif", "split": {"val": 0.2, "test": 0.2}}
    samples = sources.listing(DataSpec.model_validate(given)).samples
    newest = [name for name, split in zip(samples.names, samples.splits, strict=True) if split == "test"]
    assert {int(Path(name).stem) for name in newest} == set(range(32, 40))
    assert samples.broken == ("b/3.jpg: it doesn't say when it was taken",)


@pytest.mark.parametrize(
    ("options", "message", "error"),
    [
        ({"time_column": "token"}, 'has no column "token".*', DataError),
        ({"time": "exif"}, "the data has times of its own", SpecError),
        ({"time": "exif", "time_column": None}, "no item says when it was taken", DataError),
        ({"time_column": "label"}, "is no date such as", DataError),
        ({"split_column": "half"}, "the data has splits of its own, and is to be split by time", SpecError),
        ({"time_column": "one"}, "all items are of 1 different times", DataError),
    ],
)
def test_wrong_use_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str, error: type[TlsearchError]
) -> None:
    more = {"half": ["train", "test"] * 20, "one": ["2024-05-01"] * 40}
    with pytest.raises(error, match=message) as raised:
        listed(table(tmp_path, days(40), columns=more), **options)
    assert raised.value.hint or options == {"time_column": "label"}


def test_only_exif_is_a_way_to_tell_times() -> None:
    with pytest.raises(ValueError, match="exif"):
        DataSpec(source="folder", path=".", time="mtime")


def run(*words: object) -> str:
    told = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return told.stdout if "--json" in words else told.output


@pytest.mark.slow
def test_init_proposes_it_and_audit_tells_the_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    path = table(tmp_path / "trees", days(40), columns={"height": [str(number) for number in range(40)]})
    told = run("init", path, "--name", "trees")
    assert 'The column "taken" holds dates, from 2024-01-01 to 2024-02-09' in told
    text = (tmp_path / "trees.yaml").read_text()
    assert "time_column: taken" in text
    assert "# by time: the newest are test" in text
    found = json.loads(run("audit", "trees.yaml", "--json"))
    assert found["times"] == {
        "train": ["2024-01-01", "2024-01-24"],
        "val": ["2024-01-25", "2024-02-01"],
        "test": ["2024-02-02", "2024-02-09"],
    }
    sentence = (
        "Split by time: train 2024-01-01 to 2024-01-24, val 2024-01-25 to 2024-02-01, "
        "test 2024-02-02 to 2024-02-09"
    )
    assert sentence in found["warnings"]
    assert sentence in run("look", "trees.yaml").replace("\n", " ")


@pytest.mark.parametrize(
    "cells", [[str(2000 + number) for number in range(40)], ["x"] * 40, ["2024-05-01"] * 40]
)
def test_init_does_not_propose_numbers_words_or_one_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("init", table(tmp_path / "trees", cells), "--name", "trees")
    assert "time_column" not in (tmp_path / "trees.yaml").read_text()


def test_init_leaves_it_out_where_a_class_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path / "trees", days(40))
    lines = path.read_text().replace(",b,", ",a,").splitlines()
    path.write_text("\n".join(line.replace(",a,2024-02", ",b,2024-02") for line in lines) + "\n")
    told = run("init", path, "--name", "trees")
    assert 'don\'t split the items: the class "b" would not stand in train' in told
    assert "time_column" not in (tmp_path / "trees.yaml").read_text()


def test_a_class_that_train_never_saw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    path = table(tmp_path, days(40))
    lines = path.read_text().replace(",b,", ",a,").splitlines()
    path.write_text("\n".join(line.replace(",a,2024-02", ",b,2024-02") for line in lines) + "\n")
    file = tmp_path / "new.yaml"
    file.write_text(
        f"study: new\ndata: {{source: table, path: {path}, time_column: taken, image_size: 32}}\n"
        "backbones: [efficientnet_lite/lite0]\n"
    )
    with pytest.raises(InputError, match='class "b" has no usable item in train'):
        run("audit", file)


def test_times_of_day_are_told_where_dates_have_them() -> None:
    moments = [FIRST.replace(tzinfo=UTC).timestamp() + minutes * 60 for minutes in (0, 90)]
    samples = Samples(items=[0, 1], targets=[0, 1], names=["a", "b"], times=moments)
    none = np.array([], np.int64)
    parts = {"train": np.array([0]), "stop": none, "val": np.array([1]), "test": none}
    assert item_times.ranges(samples, parts) == {
        "train": ["2024-01-01 00:00"] * 2,
        "val": ["2024-01-01 01:30"] * 2,
    }
