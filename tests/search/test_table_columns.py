"""Columns of a table that nobody named."""

from __future__ import annotations

import pytest

from tlsearch.search.table_columns import by_content
from tlsearch.tables import read_table


@pytest.fixture
def guess(tmp_path):
    """Guesses the columns of a table whose first cells are files; two of twelve aren't there."""

    def run(header: str, *, rest: str = "cat", files: int = 10, **known: object):
        for number in range(files):
            (tmp_path / f"{number}.png").write_bytes(b"")
        path = tmp_path / "table.csv"
        path.write_text("\n".join([header, *(f"{number}.png,{rest}" for number in range(12))]) + "\n")
        return by_content(read_table(path), path, known)

    return run


def test_files_are_images_and_what_is_left_the_label(guess):
    found, told = guess("picture,defect")
    assert found == {"image_column": "picture", "label_column": "defect"}
    assert [sentence.split('"')[1] for sentence in told] == ["picture", "defect"]


def test_names_come_first_and_nothing_is_said_of_them(guess):
    assert guess("image,label") == ({}, [])
    assert guess("file,kind", image_column="file", label_column="kind") == ({}, [])


def test_what_is_given_stays(guess):
    found, told = guess("picture,defect", label_column=["defect"])
    assert found == {"image_column": "picture"}
    assert len(told) == 1


def test_of_several_columns_none_is_guessed(guess):
    assert guess("picture,defect,site", rest="cat,north")[0] == {"image_column": "picture"}
    assert guess("picture,defect,split", rest="cat,train")[0]["label_column"] == "defect"


def test_no_files_are_no_images(guess):
    assert guess("picture,defect", files=3) == ({}, [])
