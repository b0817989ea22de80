"""Small networks that learn from a study's model: what they are, what they learn by, what is refused."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiny_search
import tiny_study
import torch
from tiny_bench import bench, point, study
from typer.testing import CliRunner

from tests.one_process import student_of, verify_here
from tlsearch import registry
from tlsearch.cli.app import app
from tlsearch.contracts import Batch, Recipe
from tlsearch.database.store import Store
from tlsearch.errors import (
    BundleError,
    InputError,
    StudyConflictError,
    UnknownNameError,
    VerificationError,
)
from tlsearch.models import bundle
from tlsearch.models.export.card import card
from tlsearch.models.model import Model
from tlsearch.records import TrialRole, TrialState
from tlsearch.search import distill as distillation
from tlsearch.search.distill import distill
from tlsearch.training.distillation import Distilling, TaughtWorkspace
from tlsearch.training.gradient_trials import train

REFITTED = {"members": 2, "refit": True, "ensemble": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, above all where others want the cores too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlsearch.training.workspace.use_threads", lambda count: torch.set_num_threads(1))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study of three hues, whose model averages two networks."""
    folder = tmp_path_factory.mktemp("distill")
    pictures = tiny_study.colours(folder / "pictures", each=40, noise=60.0)
    asked = tiny_study.document(
        pictures, strategies=["fine_tune"], budget={"trials": 3, "epochs": 6}, search=REFITTED
    )
    assert tiny_study.run(folder, asked).model is not None
    return folder


def teacher_of(place: Path) -> Model:
    with Store.open(tiny_study.url(place)) as store:
        pinned = store.model("tiny")
    assert pinned is not None
    return bundle.load(pinned.uri)


def taught(place: Path, folder: Path, **options: object) -> Model:
    """A student of the study's model, verified in this process."""
    return student_of("tiny", teacher_of(place), place, folder, database="tlsearch.db", **options)


def pictures(place: Path) -> list[Path]:
    return sorted((place / "pictures").rglob("*.png"))


def test_a_student_is_one_network_that_answers_as_its_teacher(place: Path, tmp_path: Path) -> None:
    teacher = teacher_of(place)
    student = taught(place, tmp_path / "small")
    assert (teacher.manifest.members, student.manifest.members) == (2, 1)
    told, wanted = (np.array(model.predict(pictures(place))) for model in (student, teacher))
    assert (told == wanted).mean() > 0.9
    assert student.manifest.trained_on == ("train", "stop", "val")
    assert student.manifest.metrics["test"]["accuracy"] > 0.8
    # It can say that it doesn't know, by what was found while it didn't know the validation items.
    assert student.manifest.calibration["abstention"]["candidates"]["items"] > 10
    assert student.familiar is not None
    source = student.manifest.provenance["distilled_from"]
    assert source == {"backbone": "tiny/net", "members": 2, "sha256": teacher.manifest.sha256}
    assert "Distilled from the study's model, 2 networks on `tiny/net`." in card(student, library="tlsearch")
    with Store.open(tiny_study.url(place)) as store:
        assert store.model("tiny").sha256 == teacher.manifest.sha256, "the study keeps its model"
        assert {trial.role for trial in store.trials("tiny")} >= {TrialRole.SEARCH, TrialRole.REFIT}
        assert all(trial.state is not TrialState.RUNNING for trial in store.trials("tiny"))


def test_it_goes_on_with_the_best_hyperparameters_of_the_study(place: Path, tmp_path: Path) -> None:
    with Store.open(tiny_study.url(place)) as store:
        best = max(store.trials("tiny", role=TrialRole.SEARCH), key=lambda trial: trial.value)
    student = taught(place, tmp_path / "small")
    assert student.manifest.params["learning_rate"] == best.params["learning_rate"]
    assert student.manifest.params["length"] == distillation.LONGER * best.params["length"]
    assert student.manifest.params["augmentation"] not in ("none", "mixup")


@pytest.mark.slow
def test_another_backbone_looks_in_its_own_way(tmp_path: Path) -> None:
    folder = tmp_path / "sized"
    asked = tiny_study.document(
        tiny_study.colours(folder / "pictures"),
        data={"image_size": 32},
        strategies=["linear_probe"],
        search=REFITTED,
    )
    tiny_study.run(folder, asked)
    student = taught(folder, tmp_path / "small", backbone="efficientnet_lite/lite0", weights="random")
    assert student.manifest.backbone == "efficientnet_lite/lite0"
    assert student.inputs.std != teacher_of(folder).inputs.std
    assert np.isfinite(student.predict_proba(pictures(folder))).all()


def test_teacher_and_student_see_the_same_view(place: Path, tmp_path: Path) -> None:
    teacher = teacher_of(place)
    asked = study(data={"source": "folder", "path": str(place / "pictures")})
    config = bench(tmp_path, asked).assignment
    workspace = TaughtWorkspace(config, teacher=teacher.network, teacher_inputs=teacher.inputs)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Looking(Distilling):
        def loss(self, model, batch, params):
            inputs, answers = batch.inputs
            seen.append((inputs, answers))
            return super().loss(model, batch, params)

    asked_for = point("fine_tune", freeze_depth=0.0, augmentation="light")
    list(train(workspace, Looking(), asked_for, deadline=float("inf")))
    with torch.inference_mode():
        for inputs, answers in seen:
            torch.testing.assert_close(answers, teacher.network(inputs), atol=0.02, rtol=0.01)
    first, *_, last = (inputs for inputs, _ in seen)
    assert not torch.equal(first.sum(), last.sum()), "views take turns"
    assert len(workspace._told) == asked.search.views


def test_the_teacher_looks_at_no_more_views_than_there_is_time_for(place: Path, tmp_path: Path) -> None:
    teacher = teacher_of(place)
    asked = study(data={"source": "folder", "path": str(place / "pictures")}, search={"views": 8})
    config = bench(tmp_path, asked).assignment
    looks = {}
    for seconds in (0.0, 1e9):
        workspace = TaughtWorkspace(config, teacher=teacher.network, teacher_inputs=teacher.inputs)
        workspace.deadline = time.time() + seconds
        student = point("fine_tune", 0, freeze_depth=0.0, augmentation="light")
        list(train(workspace, Distilling(), replace(student, epochs=10), deadline=math.inf))
        looks[seconds] = [view for _, view in workspace._told]
    assert looks == {0.0: [1], 1e9: [1, 2, 3, 4, 5, 6, 7, 8]}


@pytest.mark.parametrize(
    ("task", "shape"), [("classification", (6, 3)), ("multilabel", (6, 3)), ("regression", (6, 2))]
)
def test_a_student_learns_to_say_what_its_teacher_says(task: str, shape: tuple[int, int]) -> None:
    learned = registry.task(task)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(shape, generator=generator)
    own = torch.randn(shape, generator=generator).requires_grad_()
    before = learned.distillation(own, wanted, 4.0)
    (gradient,) = torch.autograd.grad(before, own)
    assert learned.distillation(own - 0.1 * gradient, wanted, 4.0) < before
    same = wanted.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(learned.distillation(same, wanted, 4.0), same)
    assert gradient.abs().max() < 1e-6


def test_gradients_of_the_teachers_loss_are_as_large_at_any_temperature() -> None:
    learned = registry.task("classification")
    wanted, own = torch.tensor([[1.0, 0.0, -1.0]]), torch.zeros(1, 3, requires_grad=True)
    sizes = [
        float(torch.autograd.grad(learned.distillation(own, wanted, heat), own)[0].norm())
        for heat in (1.0, 10.0)
    ]
    assert 0.5 < sizes[0] / sizes[1] < 2.0


def test_labels_teach_too() -> None:
    learned, params = registry.task("classification"), {"learning_rate": 1e-3}
    outputs, answers = torch.zeros(2, 3), torch.zeros(2, 3)
    targets = torch.tensor([0, 1])
    batch = Batch((torch.zeros(2, 1), answers), targets, 1, learned)
    loss = Distilling().loss(lambda inputs: outputs, batch, params)
    assert loss == pytest.approx(0.1 * float(learned.loss(outputs, targets, Recipe())))


def test_one_that_is_worse_with_all_labels_is_left_out(place: Path, tmp_path: Path) -> None:
    told = []

    def strict(*arguments, **question):
        if question["least"] is not None:
            raise VerificationError("accuracy is too low")
        return verify_here(*arguments, **question)

    with (
        mock.patch.dict(os.environ, {"TLSEARCH_CACHE": str(place / "cache")}),
        mock.patch.object(distillation, "verify", strict),
    ):
        student = distill(
            "tiny",
            teacher_of(place),
            database=tiny_study.url(place),
            folder=tmp_path / "small",
            observe=lambda snapshot: told.append(snapshot.note),
        )
    assert student.manifest.trained_on == ("train",)
    assert student.manifest.metrics["test"]["accuracy"] > 0.5
    assert any("left out: accuracy is too low" in note for note in told)


def run(place: Path, *words: object) -> str:
    told = CliRunner().invoke(
        app,
        ["distill", *map(str, words), "--db", tiny_study.url(place)],
        env={"TLSEARCH_CACHE": str(place / "cache")},
        catch_exceptions=False,
    )
    assert told.exit_code == 0, told.output
    return told.stdout if "--json" in words else told.output


def test_the_command_sets_both_side_by_side_and_its_bundle_is_like_any_other(
    place: Path, tmp_path: Path
) -> None:
    with mock.patch.object(distillation, "verify", verify_here):
        told = run(place, "tiny", "-o", tmp_path / "small", "--minutes", "1")
        assert "The teacher had learned from these items" in told
        for row in ("networks", "million parameters", "megabytes", "milliseconds per item", "test accuracy"):
            assert row in told
        assert f"Next:\n  tlsearch predict {tmp_path / 'small'} ITEM..." in told
        with pytest.raises(InputError, match="already holds a bundle"):
            run(place, "tiny", "-o", tmp_path / "small")
        again = json.loads(run(place, "tiny", "-o", tmp_path / "small", "--overwrite", "--json"))
    assert again["teacher"]["networks"] == 2
    assert again["student"]["networks"] == 1
    assert again["student"]["megabytes"] < again["teacher"]["megabytes"]
    words = ["predict", str(tmp_path / "small"), str(pictures(place)[0]), "--json"]
    predicted = CliRunner().invoke(app, words)
    assert json.loads(predicted.stdout)[0]["label"] == "blue"


def test_wrong_use_is_refused(place: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    with pytest.raises(UnknownNameError, match="tiny/nett"):
        run(place, "tiny", "-o", small, "--backbone", "tiny/nett")
    with pytest.raises(UnknownNameError, match="nobody"):
        run(place, "tiny", "-o", small, "--backbone", "nobody/net")
    with pytest.raises(InputError, match=r'"net" is no name.*Did you mean "tiny/net"') as told:
        run(place, "tiny", "-o", small, "--backbone", "net")
    assert "--backbone" in str(told.value.hint)
    with pytest.raises(InputError, match='"nett" is no name such as efficientnet_lite/lite0'):
        run(place, "tiny", "-o", small, "--backbone", "nett")
    with pytest.raises(InputError, match="comes without data to learn from"):
        run(place, teacher_of(place).folder, "-o", small)
    with pytest.raises(UnknownNameError, match="tinny"):
        run(place, "tinny", "-o", small)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="isn't a bundle"):
        run(place, "tiny", "-o", tmp_path)
    assert not small.exists()


def test_a_study_without_a_model_has_nothing_to_teach(tmp_path: Path) -> None:
    begun = tiny_search.search(tmp_path, promoted=False, tried=[point("linear_probe")])
    words = ["distill", begun.name, "-o", str(tmp_path / "small"), "--db", begun.url]
    with pytest.raises(BundleError, match="no verified model yet"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_files_that_are_gone_are_named(place: Path, tmp_path: Path) -> None:
    gone = pictures(place)[3]
    gone.rename(tmp_path / "kept.png")
    try:
        with pytest.raises(StudyConflictError, match=r"1 item missing \(blue/03\.png\)"):
            run(place, "tiny", "-o", tmp_path / "small")
    finally:
        (tmp_path / "kept.png").rename(gone)


def test_tasks_without_such_a_loss_are_refused(place: Path, tmp_path: Path) -> None:
    known = teacher_of(place)
    masks = Model(known.network, known.inputs, replace(known.manifest, task="segmentation"), known.folder)
    with pytest.raises(InputError, match="of task segmentation can't be distilled"):
        distill("tiny", masks, database=tiny_study.url(place), folder=tmp_path / "small")
