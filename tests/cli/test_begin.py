"""``init``, ``schema`` and ``tlsearch.toml``, as people use them."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.one_process import command
from tlsearch import registry, spec
from tlsearch.tables import names_apart


def tlsearch(*words, cwd, **environment):
    return command(*words, folder=cwd, env={**os.environ, **environment})


def photos(folder, counts, size=100):
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (size, size + 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")


def test_init_writes_a_study_that_fits_and_keeps_what_is_there(tmp_path):
    photos(tmp_path / "my photos", {"cat": 30, "dog": 6})
    done = tlsearch("init", "my photos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "broken" not in done.stderr  # nothing was decoded
    assert "Only file names and some image sizes were read" in done.stderr
    written = tmp_path / "my-photos.yaml"
    study = spec.load(written)
    assert study.study == "my-photos"
    assert study.data.options["path"] == str(tmp_path / "my photos")
    assert study.objective.metric == "balanced_accuracy"  # five cats to a dog
    assert study.data.image_size == 128
    assert study.data.split.val == 0.2  # 36 images
    assert "#" in written.read_text()

    again = tlsearch("init", "my photos", cwd=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    elsewhere = tlsearch("init", "my photos", "-o", "x.yaml", "--name", "x", "--json", cwd=tmp_path)
    assert json.loads(elsewhere.stdout)["counts"] == {"cat": 30, "dog": 6}
    odd = tlsearch("init", "my photos", "--name", "my photos/2", cwd=tmp_path)
    assert odd.returncode == 2
    assert "The name of a study must begin with a letter or digit" in odd.stderr
    assert "--name my-photos-2 is possible" in odd.stderr
    assert spec.load(tmp_path / "x.yaml").study == "x"


def test_init_enlarges_small_pictures(tmp_path):
    photos(tmp_path / "icons", {"cat": 6, "dog": 6}, size=28)
    assert tlsearch("init", "icons", cwd=tmp_path).returncode == 0
    assert spec.load(tmp_path / "icons.yaml").data.image_size == 128
    assert "small images are enlarged" in (tmp_path / "icons.yaml").read_text()


def test_run_has_smaller_images_in_fewer_minutes_and_writes_nothing_for_what_are_none(tmp_path):
    photos(tmp_path / "pets", {"cat": 6, "dog": 6}, size=300)
    for words, told in (
        (("--minutes", "soon"), "--minutes takes a finite number"),
        (("--trials", "many"), "--trials takes a number such as 60 or +50"),
        (("--trials", "0"), "budget.trials"),
        (("--set", "budget.minutes=soon"), "budget.minutes"),
        (("--set", "strategys=[fine_tune]"), "strategies"),
        (("--set", "strategies"), "--set takes KEY=VALUE"),
    ):
        refused = tlsearch("run", "pets", *words, cwd=tmp_path)
        assert refused.returncode == 2, words
        assert told in refused.stderr
        assert not (tmp_path / "pets.yaml").exists()
    one = ("--minutes", "1", "--trials", "1", "--set", "strategies=[linear_probe]")
    assert tlsearch("run", "pets", *one, cwd=tmp_path).returncode == 0
    small = spec.load(tmp_path / "pets.yaml").data.image_size
    tlsearch("init", "pets", "--force", cwd=tmp_path)
    assert small is not None
    assert small < (spec.load(tmp_path / "pets.yaml").data.image_size or 224)


def test_init_says_why_items_can_not_be_used(tmp_path):
    photos(tmp_path / "pets", {"cat": 3, "dog": 9})
    for number in range(7):
        (tmp_path / "pets" / "dog" / f"{number}.jpg").unlink()
        (tmp_path / "pets" / "dog" / f"{number}.jpg").symlink_to("nowhere")
    done = tlsearch("init", "pets", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 can't be used" in done.stderr
    assert "can't be used: dog/0.jpg: a link to nothing" in done.stderr
    assert "can't be used: 2 more" in done.stderr


def test_init_says_how_pictures_become_squares(tmp_path):
    photos(tmp_path / "square", {"cat": 3, "dog": 3}, size=100)
    photos(tmp_path / "wide", {"cat": 3, "dog": 3}, size=20)
    for name, expected in (("square", "crop"), ("wide", "squash")):
        done = tlsearch("init", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"resize: {expected}" in done.stderr
        assert spec.load(tmp_path / f"{name}.yaml").data.resize == expected


def test_init_takes_a_table_of_corrected_labels(tmp_path):
    photos(tmp_path / "pets", {"cat": 3, "dog": 3})
    (tmp_path / "labels.csv").write_text("item,label,corrected\ncat/0.jpg,cat,dog\n")
    done = tlsearch("init", "pets", "--corrected", "labels.csv", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["counts"] == {"cat": 2, "dog": 4}, done.stderr
    assert spec.load(tmp_path / "pets.yaml").data.corrected == str(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("item,label,corrected\ncat/0.jpg,cat,dgo\n")
    done = tlsearch("init", "pets", "--corrected", "labels.csv", "--force", cwd=tmp_path)
    assert done.returncode == 2
    assert 'Did you mean "dog"' in done.stderr


def test_init_of_a_table_finds_its_columns_and_paths(tmp_path):
    photos(tmp_path / "in", {"a": 2, "b": 2})
    (tmp_path / "in" / "list.csv").write_text(
        "file,class,split\na/0.jpg,a,train\na/1.jpg,a,val\nb/0.jpg,b,train\nb/1.jpg,b,val\n"
    )
    (tmp_path / "studies").mkdir()
    done = tlsearch("init", "in/list.csv", "-o", "studies/list.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = spec.load(tmp_path / "studies" / "list.yaml")
    assert study.data.options["image_column"] == "file"
    assert study.data.options["label_column"] == "class"
    assert os.path.samefile(study.data.options["path"], tmp_path / "in" / "list.csv")
    assert "test is cut from train" in (tmp_path / "studies" / "list.yaml").read_text()


def test_init_takes_columns_by_name_and_an_empty_one_for_none(tmp_path):
    photos(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "list.csv").write_text(
        '"file_name";"side";"split"\na/0.jpg;a;x\na/1.jpg;a;x\nb/0.jpg;b;y\nb/1.jpg;b;y\n'
    )
    done = tlsearch("init", "list.csv", "--label-column", "side", "--split-column", "", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "semicolons" in done.stderr
    found = spec.load(tmp_path / "list.yaml").data.options
    assert (found["image_column"], found["label_column"]) == ("file_name", "side")
    assert found["split_column"] is None
    done = tlsearch("init", "list.csv", "--label-column", "sides", "--force", cwd=tmp_path)
    assert done.returncode == 2
    assert 'Did you mean "side"?' in done.stderr
    done = tlsearch("init", "a", "--label-column", "side", cwd=tmp_path)
    assert "which has no columns" in done.stderr


def test_a_table_of_other_columns_is_audited_as_it_is_searched(tmp_path):
    photos(tmp_path, {"a": 4, "b": 4})
    rows = "".join(f"{kind}/{number}.jpg,{kind},{number % 2}\n" for kind in "ab" for number in range(4))
    (tmp_path / "list.csv").write_text(f"image,side,wet\n{rows}")
    for verb in ("audit", "look", "run", "init"):
        done = tlsearch(verb, "list.csv", cwd=tmp_path)
        assert done.returncode == 2
        assert "--label-column beside a table" in done.stderr, (verb, done.stderr)
    done = tlsearch("audit", "list.csv", "--label-column", "side", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout)["counts"]["train"].values()) > 0
    assert not list(tmp_path.glob("*.yaml"))
    done = tlsearch("audit", "a.yaml", "--label-column", "side", cwd=tmp_path)
    assert "--label-column is for a folder or table, and a.yaml is a study file" in done.stderr


def test_init_of_nothing_says_what_would_be_right(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, expected in (("missing", "nothing at missing"), ("empty", "one folder per class")):
        done = tlsearch("init", name, cwd=tmp_path)
        assert done.returncode == 2
        assert expected in done.stderr
    assert not list(tmp_path.glob("*.yaml"))


def test_schema_is_json(tmp_path):
    done = tlsearch("schema", cwd=tmp_path)
    assert "budget" in json.loads(done.stdout)["properties"]


def test_defaults_come_from_the_nearest_file_and_the_environment_wins(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "tlsearch.toml").write_text('db = "sqlite:///mine.db"\n')
    assert f"{tmp_path / 'mine.db'}" in tlsearch("studies", cwd=inner).stderr
    assert "other.db" in tlsearch("studies", cwd=inner, TLSEARCH_DB="sqlite:///other.db").stderr
    assert "third.db" in tlsearch("studies", "--db", "sqlite:///third.db", cwd=inner).stderr


@pytest.mark.parametrize(
    ("text", "expected"), [('artefacts = "x"', 'Did you mean "artifacts"?'), ("db = [", "Can't read")]
)
def test_a_wrong_file_of_defaults_is_an_error(tmp_path, text, expected):
    (tmp_path / "tlsearch.toml").write_text(text)
    done = tlsearch("studies", cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr


QUICK = ("--trials", "2", "--set", "strategies=[linear_probe]", "--set", "data.image_size=32")


def test_one_command_goes_from_a_folder_to_a_model_and_on(place, images):
    photos = place.folder / "solar cells"
    photos.symlink_to(images, target_is_directory=True)
    done = place.here("run", "solar cells", "--preset", "quick", *QUICK)
    assert f"Wrote {place.folder / 'solar-cells.yaml'}" in done.stderr
    assert "120 items of 3 classes" in done.stderr
    assert "budget: {trials: 12, minutes: 2}" in done.stderr  # the preset as plain keys
    assert "best of solar-cells" in done.stdout
    following = done.stderr.partition("Next:")[2].split("\n")
    assert [line.split()[1] for line in following if line.strip()] == ["predict", "report", "export"]

    again = place.here("run", "solar cells", *QUICK)
    assert "which was written for this data before" in again.stderr
    searched = [trial for trial in place.ask("trials", "solar-cells") if trial["role"] == "search"]
    assert len(searched) == 2
    said = place.refused("run", "solar cells", "--preset", "best")
    assert "--name solar-cells-best" in said
    assert "study file" in place.refused("run", "solar-cells.yaml", "--preset", "best")


def test_audit_looks_at_a_folder_and_leaves_nothing(place, images):
    found = place.ask("audit", images)
    assert found["classes"] == 3
    assert not list(place.folder.glob("*.yaml"))


def test_a_folder_that_is_not_there_is_named_with_the_nearest(place, images):
    (place.folder / "photos").symlink_to(images, target_is_directory=True)
    for verb in ("run", "audit"):
        assert 'Did you mean "photos"' in place.refused(verb, "photoss/")


@pytest.mark.parametrize(
    ("cells", "task", "why"),
    [
        (["0.25", "1.5", "3", "7"] * 6, "regression", "numbers from 0.25 to 7, such as 0.25"),
        ([str(number) for number in range(24)], "regression", "24 whole numbers from 0 to 23"),
        (["1", "2", "3", "4"] * 6, "classification", "4 whole numbers, taken as names"),
    ],
)
def test_init_of_a_table_of_numbers_says_what_it_takes_them_for(tmp_path, cells, task, why):
    photos(tmp_path, {"all": len(cells)}, size=32)
    rows = [f"all/{number}.jpg,{cell}" for number, cell in enumerate(cells)]
    (tmp_path / "list.csv").write_text("\n".join(["image,value", *rows]))
    done = tlsearch("init", "list.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = spec.load(tmp_path / "list.yaml")
    assert study.task == task
    assert study.objective.metric == registry.task(task).metrics[0].name
    assert study.data.options["label_column"] == "value"
    assert f"task: {task}  # {why}" in done.stderr


@pytest.mark.parametrize(
    ("cells", "mark"), [(["a;b", "b", "", "a"] * 6, ";"), (["a|b", "b|c", "c|a"] * 8, "|")]
)
def test_init_of_a_table_of_several_names_in_a_cell_finds_their_separator(tmp_path, cells, mark):
    photos(tmp_path, {"all": len(cells)}, size=32)
    rows = [f"all/{number}.jpg,{cell}" for number, cell in enumerate(cells)]
    (tmp_path / "list.csv").write_text("\n".join(["image,kinds", *rows]))
    done = tlsearch("init", "list.csv", "--label-column", "kinds", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = spec.load(tmp_path / "list.yaml")
    assert (study.task, study.objective.metric) == ("multilabel", "map")
    assert study.data.options["label_separator"] == mark
    assert "task: multilabel  # up to 2 labels for an item" in done.stderr


def test_init_of_a_folder_takes_the_table_in_it_with_its_columns_of_labels(tmp_path):
    photos(tmp_path, {"all": 24}, size=32)
    rows = [f"{number}.jpg,{number % 2},{number // 12}" for number in range(24)]  # six have neither
    (tmp_path / "all" / "list.csv").write_text("\n".join(["image,red,white", *rows]))
    done = tlsearch("init", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = spec.load(tmp_path / "all.yaml")
    assert study.task == "multilabel"
    assert list(study.data.options["label_column"]) == ["red", "white"]
    assert "task: multilabel  # 2 columns of 0 and 1" in done.stderr
    assert "24 items of 2 labels," in done.stderr


def test_cells_that_only_look_like_several_names_are_left_alone():
    assert names_apart(["Paris, France", "Lyon, France", "Bonn, Germany"]) is None
    assert names_apart(["1,5", "2,5", "3"]) is None
    assert names_apart(["cat", "dog"]) is None
    assert names_apart(["A", "A+", "B", "n/a"]) is None
    assert names_apart(["golden retriever", "golden eagle", "bald eagle"]) is None


@pytest.mark.parametrize("mark", ["+", "/", " "])
def test_other_marks_stand_between_names_where_there_are_far_fewer_of_these_than_of_cells(mark):
    names = ("red", "blue", "long", "short")
    cells = [mark.join(some) for many in (1, 2) for some in itertools.combinations(names, many)]
    assert names_apart(cells) == mark
    assert names_apart(cells[:5]) is None


def test_init_says_that_a_class_is_too_small_to_be_searched(tmp_path):
    photos(tmp_path / "pets", {"cat": 30, "dog": 30, "owl": 1})
    done = tlsearch("init", "pets", cwd=tmp_path)
    assert 'can\'t be searched as it is: class "owl" has 1 distinct item' in done.stderr
