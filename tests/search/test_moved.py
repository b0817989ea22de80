"""A project's folder is moved, copied, or mounted elsewhere: its studies are used and gone on with there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny_study

from tests.one_process import command
from tlsearch.database.places import present, with_moved_paths
from tlsearch.database.store import Store
from tlsearch.records import StudyState


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project after a study: its pictures, study file, database and artifacts in one folder."""
    folder = tmp_path / "before" / "project"
    tiny_study.colours(folder / "pictures", noise=30.0)
    described = tiny_study.document(Path("pictures"), budget={"trials": 2}, strategies=["linear_probe"])
    (folder / "study.yaml").write_text(json.dumps(described))
    said(folder, "run", "study.yaml")
    return folder


def said(folder: Path, *words: object) -> str:
    env = {**os.environ, "TLSEARCH_CACHE": str(folder.parent / "cache"), "NO_COLOR": "1"}
    for name in ("TLSEARCH_DB", "TLSEARCH_ARTIFACTS"):
        env.pop(name, None)
    done = command(*words, folder=folder, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def database(folder: Path) -> Store:
    (file,) = folder.glob("*.db")
    return Store.open(f"sqlite:///{file}")


def places(folder: Path) -> list[Path]:
    """Where the study's files are said to be."""
    with database(folder) as store:
        model = store.model("tiny")
        kept = [t.artifact.uri for t in store.trials("tiny") if t.artifact is not None]
    assert model is not None
    assert kept
    return [Path(model.uri), *map(Path, kept)]


def test_all_commands_work_in_a_moved_project(project, tmp_path):
    here = tmp_path / "after" / "elsewhere"
    here.parent.mkdir()
    shutil.move(project, here)
    for place in places(here):
        assert place.exists()
        assert place.is_relative_to(here)
    assert str(here) in said(here, "best", "tiny")
    assert "red" in said(here, "predict", "tiny", "pictures/red/00.png")
    said(here, "evaluate", "tiny", "pictures")
    more = json.loads((here / "study.yaml").read_text())
    more["budget"]["trials"] = 3
    (here / "study.yaml").write_text(json.dumps(more))
    again = said(here, "run", "study.yaml")
    assert "isn't what was written" not in again
    with database(here) as store:
        assert store.study("tiny").state is StudyState.COMPLETE
        assert len(store.trials("tiny")) >= 3
    for place in places(here):
        assert place.exists()
        assert place.is_relative_to(here)


def test_a_copied_project_reads_its_own_files(project, tmp_path):
    here = tmp_path / "copy"
    shutil.copytree(project, here)
    assert all(place.is_relative_to(here) for place in places(here))
    assert all(place.is_relative_to(project) for place in places(project))


def test_a_copied_project_is_extended_by_its_own_data(project, tmp_path):
    here = tmp_path / "copy"
    shutil.copytree(project, here)
    tiny_study.colours(tmp_path / "more", each=4, noise=40.0)
    for path in (tmp_path / "more").rglob("*.png"):
        shutil.copy(path, here / "pictures" / path.parent.name / f"new{path.name}")
    with database(here) as store:
        assert store.study("tiny").spec["data"]["path"] == str(here / "pictures")
    with database(project) as store:
        assert store.study("tiny").spec["data"]["path"] == str(project / "pictures")
    assert "items are new" in said(here, "study", "extend", "tiny")
    with database(here) as store:
        assert store.study("tiny-2").spec["data"]["path"] == str(here / "pictures")


def test_only_paths_below_the_former_folder_move_and_only_to_what_is_there(tmp_path):
    for name in ("model/weights", "pictures"):
        (tmp_path / "now" / name).mkdir(parents=True)
    spec = {
        "study": "/old/pictures",
        "data": {"path": "/old/home/pictures", "root": "/old/home/left out"},
        "backbones": [{"name": "a/b", "weights": "/old/home/../pictures"}],
    }
    moved = with_moved_paths(spec, "/old/home/model/weights", tmp_path / "now")
    assert moved == {**spec, "data": {**spec["data"], "path": str(tmp_path / "now" / "pictures")}}
    assert with_moved_paths(spec, None, tmp_path / "now") is spec
    assert with_moved_paths(spec, "s3://bucket/model/weights", tmp_path / "now") is spec
    assert with_moved_paths(spec, "/old/home/model/weights", None) is spec


def test_a_database_that_is_moved_alone_finds_its_files_where_they_are(project, tmp_path):
    (tmp_path / "alone").mkdir()
    (file,) = project.glob("*.db")
    shutil.move(file, tmp_path / "alone")
    assert all(place.is_relative_to(project) for place in places(tmp_path / "alone"))


def test_what_is_recorded_by_a_url_or_on_a_server_stays(tmp_path):
    (tmp_path / "study" / "model").mkdir(parents=True)
    assert present("s3://bucket/study/model", tmp_path) == "s3://bucket/study/model"
    assert present("/old/study/model", None) == "/old/study/model"
    assert present("/old/study/model", tmp_path) == str(tmp_path / "study" / "model")
    assert present("/old/model", tmp_path / "study") == "/old/model"  # one name may be another study's
