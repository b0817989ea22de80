"""From a folder or a table to its study file, which is written once and never lost."""

from __future__ import annotations

import pytest

from tests.conftest import draw_folder
from tlsearch import spec
from tlsearch.errors import DataError, InputError, StudyConflictError
from tlsearch.search.from_data import is_data, known_file, study_file, study_of
from tlsearch.search.study_template import study_name


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder whose name has a blank, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return draw_folder(tmp_path / "solar cells", classes=("disc", "frame"), each=6)


def test_a_folder_and_a_table_are_data_and_a_study_file_is_not(photos, tmp_path):
    for name in ("list.csv", "list.parquet", "photos.yaml", "photos", "study.json"):
        (tmp_path / name).touch()
    assert is_data(photos)
    assert is_data(tmp_path / "list.csv")
    assert is_data(tmp_path / "list.parquet")
    assert not is_data(tmp_path / "photos.yaml")
    assert not is_data(tmp_path / "study.json")  # what a job of a cluster runs
    assert not is_data(tmp_path / "missing.yaml")  # whose reading says what is missing
    assert not is_data(tmp_path / "photos")
    with pytest.raises(InputError, match='Did you mean "solar cells"'):
        is_data(tmp_path / "solar-cells")


def test_the_file_is_written_here_and_then_gone_on_with(photos, tmp_path):
    made = study_file(photos, preset="quick")
    assert made.path.absolute() == tmp_path / "solar-cells.yaml"
    assert made.proposal is not None
    study = spec.load(made.path)
    assert (study.study, study.budget.minutes, study.search.refit) == ("solar-cells", 2, True)
    assert study.data.options["path"] == str(photos)
    made.path.write_text(made.path.read_text() + "# mine\n")
    for same in ("quick", None):
        assert study_file(photos, preset=same).proposal is None
    assert made.path.read_text().endswith("# mine\n")


def test_other_data_or_another_preset_never_takes_a_file_over(photos, tmp_path):
    study_file(photos, preset="quick")
    before = (tmp_path / "solar-cells.yaml").read_text()
    with pytest.raises(InputError, match=r"budget.minutes: 2.0") as told:
        study_file(photos, preset="best")
    assert "--name solar-cells-best" in str(told.value)
    other = draw_folder(tmp_path / "elsewhere" / "solar cells", classes=("disc", "frame"), each=6)
    with pytest.raises(InputError, match=str(photos)):
        study_file(other)
    assert (tmp_path / "solar-cells.yaml").read_text() == before
    assert study_file(other, name="others").path.name == "others.yaml"


def test_columns_of_a_table_are_named_once(photos, tmp_path):
    table = tmp_path / "cells.csv"
    files = sorted(path.relative_to(tmp_path) for path in photos.rglob("*.png"))
    rows = [f"{path},{path.parent.name},{path.stem[-1] in '024'}" for path in files]
    table.write_text("\n".join(["picture,kind,even", *rows]) + "\n")
    made = study_file(table, columns={"label_column": "even"})
    assert spec.load(made.path).data.options["label_column"] == "even"
    assert study_file(table, columns={"label_column": "even"}).proposal is None
    assert study_file(table).proposal is None
    with pytest.raises(InputError, match="its label_column is even") as told:
        study_file(table, columns={"label_column": "kind"})
    assert "--name cells-2" in str(told.value)
    with pytest.raises(InputError, match="has no columns: leave label_column out"):
        study_file(photos, columns={"label_column": "kind"})


def test_a_table_that_can_not_be_listed_without_an_option_gets_it(photos, tmp_path):
    table = tmp_path / "lists" / "marks.csv"
    table.parent.mkdir()
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    rows = [f"{path},{path.parent.name}{' + big' * (number % 2)}" for number, path in enumerate(files)]
    table.write_text("\n".join(["image,label", *rows]) + "\n")
    with pytest.raises(DataError) as told:
        study_file(table)
    assert "--set data.root=FOLDER" in str(told.value)
    made = study_file(table, overrides={"data.root": str(photos), "data.label_separator": "+"})
    study = spec.load(made.path)
    assert study.task == "multilabel"
    assert made.proposal is not None
    assert made.proposal.about == f"{len(files)} items of 3 labels"


def test_nothing_is_written_for_a_study_that_is_refused(photos, tmp_path):
    def refuse(study):
        raise StudyConflictError(f"A study {study.study} exists.")

    with pytest.raises(StudyConflictError):
        study_file(photos, check=refuse)
    assert known_file(photos) is None


def test_a_file_that_another_run_wrote_meanwhile_is_told_of(photos):
    def written_meanwhile(study):
        study_file(photos)

    with pytest.raises(InputError, match="already exists") as told:
        study_file(photos, check=written_meanwhile)
    assert "the same command again" in str(told.value)


def test_a_study_can_be_had_without_a_file(photos, tmp_path):
    study = study_of(photos, overrides={"seed": 3})
    assert (study.study, study.seed) == ("solar-cells", 3)
    assert known_file(photos) is None
    written = study_file(photos).path
    assert known_file(photos) == written
    assert study_of(photos) == study_of(written)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("2024", "2024"),
        ("true", "true"),
        ("null", "null"),
        ("1e3", "1e3"),
        ("Frühjahr", "Frühjahr"),
        ("Fru\u0308hjahr", "Frühjahr"),
        ("写真 (2)", "写真-2"),
        ("a: b", "a-b"),
        ("_.x- y", "x--y"),
        ("🌸", "study"),
        ("x" * 200, "x" * 80),
        ("名" * 70, "名" * 53),
        ("x\nbudget: {trials: 1}", "x-budget-trials-1"),
    ],
)
def test_a_folder_of_any_name_gives_a_study_that_reads_back(tmp_path, monkeypatch, name, named):
    monkeypatch.chdir(tmp_path)
    made = study_file(draw_folder(tmp_path / name, classes=("disc", "frame"), each=6), preset="quick")
    study = spec.load(made.path)
    assert study.study == study_name(tmp_path / name) == named
    assert made.path.name == f"{named}.yaml"
    assert study.data.options["path"] == str(tmp_path / name)
    assert study.budget.trials == 12


def test_a_label_with_a_line_break_adds_no_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_folder(tmp_path / "in", classes=("disc", "frame"), each=6)
    rows = [f'{path},"{path.parent.name}\nseed: 7"' for path in (tmp_path / "in").glob("disc/*")]
    rows += [f"{path},frame" for path in sorted((tmp_path / "in").glob("frame/*"))[:1]]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *rows]).replace(f"{tmp_path}/", ""))
    study = spec.load(study_file(tmp_path / "list.csv", preset="quick").path)
    assert study.objective.metric == "balanced_accuracy"
    assert study.seed == 0


def test_classes_that_are_written_nearly_alike_are_told_before_anything_runs(tmp_path):
    draw_folder(tmp_path / "in", classes=("disc", "frame"), each=6)
    (tmp_path / "in" / "disc").rename(tmp_path / "in" / "Frame ")
    proposal = study_file(tmp_path / "in", folder=tmp_path).proposal
    assert proposal is not None
    assert proposal.notes == ('the classes "Frame" and "frame" are written nearly alike',)


def test_names_that_all_differ_are_no_classes(photos, tmp_path):
    rows = [f"{path.relative_to(tmp_path)},p{number}" for number, path in enumerate(photos.glob("*/*"))]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *rows]))
    with pytest.raises(DataError, match=r"each class has one item.*\n.*task: regression"):
        study_file(tmp_path / "list.csv")
