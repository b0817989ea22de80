"""What the guide to new data shows: a real search, then new pictures; and what is refused."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Place, draw
from tests.test_docs import ROOT, commands, own

pytestmark = pytest.mark.slow

GUIDE = commands(ROOT / "docs" / "how-to" / "new-data.md")
STUDY = {
    "strategies": ["linear_probe"],
    "budget": {"trials": 4},
    "search": {"finalists": 1, "confirm_seeds": 0, "refit": True, "members": 2},
}


def add(folder: Path, name: str, *, of: str, count: int) -> None:
    rng = np.random.default_rng(9)
    (folder / name).mkdir(exist_ok=True)
    for number in range(count):
        draw(of, rng).save(folder / name / f"new{number}.png")


@pytest.fixture
def searched(place: Place) -> Place:
    """A place with a finished study of pictures of its own."""
    place.images = Path(shutil.copytree(place.images, place.folder / "shapes"))
    place.here("run", place.study(**STUDY))
    return place


def test_a_study_takes_new_pictures_in(searched: Place) -> None:
    add(searched.images, "disc", of="disc", count=8)
    shutil.copytree(searched.images, searched.folder / "grown")
    in_place, elsewhere, show = ([own(word, "tiny") for word in shlex.split(line)[1:]] for line in GUIDE)
    done = searched.run(*in_place)  # by Ray, and verified in a fresh process
    assert 'Study "tiny-2" extends "tiny".' in done.stderr
    assert "8 of 128 items are new" in done.stderr
    assert "it has not fallen" in done.stderr
    shown = searched.ask("show", "tiny-2")
    assert [one["study"] for one in shown["versions"]] == ["tiny", "tiny-2"]
    assert (shown["study"]["parent"], shown["study"]["state"]) == ("tiny", "COMPLETE")
    assert shown["best"]["metrics"]["test"]["accuracy"] > 0.5
    assert "+8" in searched.here(*show).stdout
    assert "8 of 128 items are new" in searched.here(*elsewhere).stderr
    assert searched.ask("show", "tiny-grown")["study"]["parent"] == "tiny"
    assert len(searched.ask("trials", "tiny-2")) == 3  # the recipe, and its two refits
    searched.here("report", "tiny-2", "-o", "r.html", "--no-model")
    page = (searched.folder / "r.html").read_text()
    assert "How it grew" in page
    searched.here("report", "tiny", "-o", "s.html", "--no-model")
    assert "How it grew" not in (searched.folder / "s.html").read_text()


def test_what_cannot_be_extended_is_told(searched: Place) -> None:
    for words, said in (
        (("tinny",), 'Did you mean "tiny"?'),
        (("tiny",), "has the study's 120 items and no others"),
        (("tiny", searched.study()), "is not a folder"),
        (("tiny", "lost"), "there is no folder"),
        (("tiny", ""), "DATA is empty"),
        (("tiny", "--name", "../x"), "study"),
        (("tiny", "--name", "tiny"), '"tiny" exists already'),
    ):
        errors = searched.refused("study", "extend", *words)
        assert said in errors, errors
    for path in (searched.images / "frame").iterdir():
        path.unlink()
    (searched.images / "frame").rmdir()
    errors = searched.refused("study", "extend", "tiny")
    assert '40 items of "frame" missing, which are all of it (frame/000.png' in errors
    assert [study["name"] for study in searched.ask("study", "list")] == ["tiny"]
