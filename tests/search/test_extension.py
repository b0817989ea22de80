"""A study that is extended by new items and classes: real searches of the tiny backbone in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiny_study
from PIL import Image

from tests.one_process import one_process, verify_here
from tlsearch.database.store import Store
from tlsearch.errors import InputError, StudyConflictError, UnknownNameError
from tlsearch.models import bundle
from tlsearch.records import StudyItems, TrialRecord, TrialRole
from tlsearch.reports.versions import versions
from tlsearch.search import control, extension, study
from tlsearch.search.progress import Snapshot
from tlsearch.search.study import StudyResult

HUES = {"red": (200, 60, 60), "green": (60, 190, 70), "blue": (70, 80, 200), "grey": (130, 130, 130)}
HEADS = {"strategies": ["linear_probe"], "space": {"linear_probe.augmentation": "none"}}


def add(folder: Path, name: str, count: int, *, hue: str = "", seed: int = 5) -> None:
    """New pictures in a class folder, of its own hue or of another."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(exist_ok=True)
    for index in range(count):
        pixels = (np.array(HUES[hue or name]) + rng.normal(0, 40, (20, 20, 3))).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"0new{index:02d}.png")


def begun(folder: Path, **changes: object) -> Path:
    """The pictures of a study that has been searched."""
    pictures = tiny_study.colours(folder / "pictures", noise=40)
    tiny_study.run(folder, tiny_study.document(pictures, **{**HEADS, **changes}))
    return pictures


def extend(
    folder: Path, of: str = "tiny", *, data: Path | None = None, name: str | None = None
) -> tuple[StudyResult, list[str]]:
    """Extend a study; what came of it, and what was told."""
    told: list[str] = []

    def observe(snapshot: Snapshot) -> None:
        if snapshot.note:
            told.append(snapshot.note)

    with (
        mock.patch.dict("os.environ", {"TLSEARCH_CACHE": str(folder / "cache")}),
        one_process(verify=verify_here),
    ):
        spec = extension.described(tiny_study.url(folder), of, data=data, name=name)
        result = study.run(
            spec,
            database=tiny_study.url(folder),
            artifacts=folder / "tlsearch-artifacts",
            observe=observe,
            extends=of,
        )
    return result, told


def trials_of(folder: Path, name: str) -> list[TrialRecord]:
    with Store.open(tiny_study.url(folder)) as store:
        return store.trials(name, role=TrialRole.SEARCH)


def items_of(folder: Path, name: str) -> StudyItems:
    with Store.open(tiny_study.url(folder)) as store:
        found = store.items(name)
    assert found is not None
    return found


def test_where_the_model_stands_its_recipe_is_trained_anew_and_only_new_items_are_computed(
    tmp_path: Path,
) -> None:
    pictures = begun(tmp_path)
    for name in ("red", "green", "blue"):
        add(pictures, name, 6)
    result, told = extend(tmp_path)
    assert (result.study.name, result.study.parent, result.study.state) == ("tiny-2", "tiny", "COMPLETE")
    assert result.model is not None
    said = "\n".join(told)
    assert "18 of 78 items are new (" in said
    assert "known items keep their splits" in said
    assert "it has not fallen" in said
    assert "its recipe is trained on the new items" in said
    old, new = items_of(tmp_path, "tiny"), items_of(tmp_path, "tiny-2")
    where = dict(zip(new.names, new.splits, strict=True))
    assert {name: where[name] for name in old.names} == dict(zip(old.names, old.splits, strict=True))
    (trial,) = trials_of(tmp_path, "tiny-2")
    with Store.open(tiny_study.url(tmp_path)) as store:
        model = store.model("tiny")
        assert model is not None
        winner = store.trial("tiny", model.trial)
    assert (trial.strategy, trial.params) == (winner.strategy, winner.params)
    computed = [name for name in new.names if "0new" in name and where[name] != "test"]
    assert 0 < trial.costs.prefix_images == len(computed) < 18


def test_copies_of_known_items_are_told_of_and_no_score_is_of_them(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    for number in range(4):
        shutil.copy(pictures / "red" / "00.png", pictures / "red" / f"copy{number}.png")
    _, told = extend(tmp_path)
    said = "\n".join(told)
    assert "4 of 64 items are new" in said
    assert "4 of the new items are copies of known ones" in said
    assert "no new item is left to score the model of tiny on" in said


def test_a_new_class_is_searched_with_the_old_best_points_first(tmp_path: Path) -> None:
    pictures = begun(tmp_path, strategies=["linear_probe", "fine_tune"], space={})
    add(pictures, "grey", 12)
    add(pictures, "red", 3)
    result, told = extend(tmp_path)
    said = "\n".join(told)
    assert '1 new class: "grey"' in said
    assert "the search begins anew, with the best points of tiny" in said
    assert "new items that it never saw" in said  # the red ones
    assert result.model is not None
    assert bundle.load(result.model.uri).target_spec.names == ("blue", "green", "grey", "red")
    tried = trials_of(tmp_path, "tiny-2")
    assert [trial.number for trial in tried] == list(range(5))
    with Store.open(tiny_study.url(tmp_path)) as store:
        model, best = store.model("tiny"), store.best("tiny", limit=None)
        assert model is not None
        winner = store.trial("tiny", model.trial)
    assert (tried[0].strategy, tried[0].params) == (winner.strategy, winner.params)
    firsts = {trial.strategy: trial.params for trial in reversed(best)}
    assert firsts[tried[1].strategy] == tried[1].params
    assert {tried[0].strategy, tried[1].strategy} == {"linear_probe", "fine_tune"}
    points = {(trial.strategy, str(sorted(trial.params.items()))) for trial in tried}
    assert len(points) == 5


def test_where_the_model_fell_the_search_begins_anew(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    add(pictures, "red", 16, hue="blue")
    _, told = extend(tmp_path)
    assert "it fell" in "\n".join(told)
    assert len(trials_of(tmp_path, "tiny-2")) == 5


def test_an_extended_study_goes_on_is_forked_and_extended_again(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    for name in ("red", "green", "blue"):
        add(pictures, name, 6)
    result, _ = extend(tmp_path)
    spec = dict(result.study.spec)
    assert spec["budget"]["trials"] == 1
    tiny_study.run(tmp_path, {**spec, "budget": {**spec["budget"], "trials": 3}})
    assert [trial.number for trial in trials_of(tmp_path, "tiny-2")] == [0, 1, 2]
    control.fork(tiny_study.url(tmp_path), "tiny-2", "other", overrides={"budget.trials": 2})
    with Store.open(tiny_study.url(tmp_path)) as store:
        forked = store.study("other")
        assert {trial.study for trial in control.inherited(store, forked)} == {"tiny-2"}
    tiny_study.run(tmp_path, dict(forked.spec))
    assert items_of(tmp_path, "other") == items_of(tmp_path, "tiny-2")
    points = [trial.params for name in ("tiny-2", "other") for trial in trials_of(tmp_path, name)]
    assert len({str(sorted(point.items())) for point in points}) == 5
    add(pictures, "grey", 9)
    again, _ = extend(tmp_path, "other", name="tiny-3")
    assert again.model is not None
    assert len(trials_of(tmp_path, "tiny-3")) == 5  # the first study's budget, not that of a refit
    with Store.open(tiny_study.url(tmp_path)) as store:
        assert versions(store, "tiny") == []
        line = versions(store, "tiny-3")
    assert [one.study for one in line] == ["tiny", "other", "tiny-3"]
    assert [(one.items, one.more, one.new_names) for one in line] == [
        (60, 0, ()),
        (78, 18, ()),
        (87, 9, ("grey",)),
    ]
    assert line[-1].test == again.model.metrics["test"]["accuracy"]


def test_corrected_labels_are_told_and_taken(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    for index in range(4):
        (pictures / "red" / f"{index:02d}.png").rename(pictures / "blue" / f"was-red-{index}.png")
    result, told = extend(tmp_path)
    said = "\n".join(told)
    assert '4 known items of "red" are of "blue" now: blue/was-red-0.png' in said
    assert "and 1 more" in said
    assert result.model is not None
    assert sum(label == "blue" for label in items_of(tmp_path, "tiny-2").labels) == 24


def test_new_items_that_cannot_be_read_are_set_aside(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    add(pictures, "red", 5)
    (pictures / "red" / "0new00.png").write_bytes(b"cut short")
    result, told = extend(tmp_path)
    assert any("broken item" in note and "0new00.png" in note for note in told)
    assert result.model is not None
    items = items_of(tmp_path, "tiny-2")
    assert [items.names[at] for at in items.aside] == ["red/0new00.png"]


def test_what_cannot_be_extended_is_refused_before_any_work(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    url = tiny_study.url(tmp_path)
    with pytest.raises(UnknownNameError, match='"tiyn"'):
        extension.described(url, "tiyn")
    with pytest.raises(InputError, match="Nothing is new"):
        extend(tmp_path)
    control.fork(url, "tiny", "tiny-2", overrides={})
    with pytest.raises(StudyConflictError, match='"tiny-2" has no model yet'):
        extension.described(url, "tiny-2")
    with pytest.raises(StudyConflictError, match='"tiny-2" exists already') as caught:
        extension.described(url, "tiny")
    assert "--name" in str(caught.value.hint)
    with pytest.raises(InputError, match="lost"):
        extend(tmp_path, data=tmp_path / "lost", name="other")
    (pictures / "red" / "00.png").unlink()
    add(pictures, "red", 2)
    with pytest.raises(StudyConflictError, match=r"1 item missing \(red/00\.png\)"):
        extend(tmp_path, name="other")
    with Store.open(url) as store:
        assert {record.name for record in store.studies()} == {"tiny", "tiny-2"}
        store.acquire("tiny", owner="somebody@elsewhere", seconds=600)
    with pytest.raises(StudyConflictError, match="somebody@elsewhere"):
        extension.described(url, "tiny", name="other")


def test_a_run_on_data_that_grew_names_the_command(tmp_path: Path) -> None:
    pictures = begun(tmp_path)
    add(pictures, "red", 2)
    with pytest.raises(StudyConflictError, match="2 items added") as caught:
        tiny_study.run(tmp_path, tiny_study.document(pictures, **HEADS, budget={"trials": 6}))
    assert "tlsearch study extend" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "following"), [("flowers", "flowers-2"), ("flowers-2", "flowers-3"), ("a-09", "a-09-2")]
)
def test_names_count_on(name: str, following: str) -> None:
    assert extension.next_name(name) == following
