"""The end of small searches, in one process: which model is handed out, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bench import study

import tlsearch
from tests.one_process import one_process, verify_here
from tlsearch import registry
from tlsearch.database.store import Store
from tlsearch.models import bundle
from tlsearch.models.ensemble import Ensemble
from tlsearch.records import HANDED_OUT, StudyState, TrialRecord, TrialRole, TrialState
from tlsearch.reports.formatting import made_of
from tlsearch.search import mixing, refit
from tlsearch.search import study as studies
from tlsearch.search.budget import Budget
from tlsearch.search.progress import Snapshot
from tlsearch.tasks.classification import Classification

TASK = Classification()

SMALL: dict[str, Any] = {
    "data": {"source": "tiny_colours", "count": 120, "noise": 60.0},
    "strategies": ["fine_tune"],
    "budget": {"trials": 3, "epochs": 2},
    "search": {"finalists": 2, "confirm_seeds": 1, "views": 2},
}


class Place:
    """Where studies run, and what was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'studies.db'}"
        self.told: list[Snapshot] = []

    def run(self, *, verify: Callable[..., Any] = verify_here, **changes: Any) -> studies.StudyResult:
        self.told.clear()
        with one_process(verify=verify):
            return studies.run(
                study(**{**SMALL, **changes}),
                database=self.url,
                artifacts=self.folder / "artifacts",
                observe=self.told.append,
            )

    @property
    def notes(self) -> list[str]:
        return [one.note for one in self.told if one.note]

    def trials(self, role: TrialRole) -> list[TrialRecord]:
        with Store.open(self.url) as store:
            return store.trials("tiny", role=role)

    def openings(self) -> int:
        with Store.open(self.url) as store:
            lease = store.acquire("tiny", owner="test")
            counted = store.count_opening(lease, by=0)
            store.release(lease, state=StudyState.COMPLETE)
            return counted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


@pytest.fixture
def commands(tmp_path: Path, images: Path, environment: dict[str, str]) -> Iterator[Any]:
    """A working directory where commands run as processes."""
    from tests.conftest import Place as Commands

    here = Commands(tmp_path / "work", images, environment)
    yield here
    here.end_all()


def test_the_winners_recipe_is_refitted_and_its_members_averaged(place: Place) -> None:
    result = place.run()
    assert result.model is not None
    refits = place.trials(TrialRole.REFIT)
    assert [trial.state for trial in refits] == [TrialState.COMPLETE] * 3
    assert {trial.confirms for trial in refits} == {result.model.trial}
    assert len({trial.seed for trial in refits}) == 3
    assert all(trial.artifact is None for trial in refits), "the model has their weights"
    loaded = tlsearch.load(result.model.uri)
    assert loaded.manifest.members == 3
    assert loaded.manifest.trained_on == ("train", "stop", "val")
    assert [one["trial"] for one in loaded.manifest.provenance["refits"]] == [t.number for t in refits]
    told = result.model.metrics
    assert told[HANDED_OUT]["members"] == 3
    assert told[HANDED_OUT]["refitted"] == 1
    with Store.open(place.url) as store:
        winner = store.trial("tiny", result.model.trial)
    assert told["val"]["accuracy"] == winner.value, "the search's score, not one of learned items"
    assert told[HANDED_OUT]["accuracy_on_learned_validation_items"] >= told["val"]["accuracy"] - 0.2
    assert "accuracy" in told["test"]
    phases = list(dict.fromkeys(one.phase for one in place.told))
    assert phases[-4:] == [
        "confirm the best",
        "verify the winner",
        "refit the winner",
        "measure the final model",
    ]
    measured = [one for one in place.told if one.phase == "measure the final model" and one.total]
    assert measured[-1].done == measured[-1].total, "long work shows progress"
    assert place.openings() == told[HANDED_OUT]["test_openings"] == 1


def test_the_test_score_is_the_handed_out_models_own(place: Place) -> None:
    result = place.run()
    assert result.model is not None
    from tlsearch.training import sources
    from tlsearch.training.items import located

    with Store.open(place.url) as store:
        items = store.items("tiny")
    assert items is not None
    listed = sources.listing(study(**SMALL).data)
    chosen = located(items, listed, "test")
    model = bundle.load(result.model.uri)
    labels = np.asarray(listed.samples.labels)[chosen]
    guessed = model.logits([listed.samples.items[index] for index in chosen]).argmax(axis=1)
    assert result.model.metrics["test"]["accuracy"] == pytest.approx(float((guessed == labels).mean()))


@pytest.mark.parametrize("strategies", [["linear_probe"], ["feature_copy"]])
def test_heads_are_refitted_too(place: Place, strategies: list[str]) -> None:
    result = place.run(strategies=strategies)
    assert result.model is not None
    assert result.model.metrics[HANDED_OUT]["refitted"] == 1
    assert len(place.trials(TrialRole.REFIT)) == 3


def test_one_member_is_one_network(place: Place) -> None:
    result = place.run(search={**SMALL["search"], "members": 1})
    assert result.model is not None
    assert len(place.trials(TrialRole.REFIT)) == 1
    assert tlsearch.load(result.model.uri).manifest.members == 1


def test_without_a_refit_the_winner_is_handed_out(place: Place) -> None:
    result = place.run(search={**SMALL["search"], "refit": False})
    assert result.model is not None
    assert place.trials(TrialRole.REFIT) == []
    assert result.model.metrics[HANDED_OUT] == {
        "refitted": 0.0,
        "members": 1.0,
        "recipes": 1.0,
        "flips": 0.0,
        "test_openings": 1.0,
    }
    assert tlsearch.load(result.model.uri).manifest.trained_on == ("train",)


MIXED: dict[str, Any] = {
    "strategies": ["fine_tune", "linear_probe"],
    "budget": {"trials": 6, "epochs": 2},
    "search": {"finalists": 3, "confirm_seeds": 0, "views": 2, "members": 2},
}


@pytest.fixture
def averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every finalist of another strategy is averaged with the winner, whatever validation items say."""

    def everything(outputs: list[Any], targets: Any, task: Any, *, welcome: list[int]) -> list[mixing.Chosen]:
        return [mixing.Chosen(position, 1.0 + position) for position in range(len(outputs))]

    monkeypatch.setattr(mixing, "choose", everything)


@pytest.mark.usefixtures("averaging")
def test_other_strategies_are_refitted_and_averaged_with_the_winner(place: Place) -> None:
    result = place.run(**MIXED)
    assert result.model is not None
    told = result.model.metrics[HANDED_OUT]
    loaded = tlsearch.load(result.model.uri)
    recipes = loaded.manifest.recipes
    assert {one.strategy for one in recipes} == {"fine_tune", "linear_probe"}
    assert [one.scale for one in recipes] == [1.0, 2.0]
    assert told["recipes"] == 2
    assert told["members"] == loaded.manifest.members == sum(one.members for one in recipes)
    refits = place.trials(TrialRole.REFIT)
    assert {trial.strategy for trial in refits} == {"fine_tune", "linear_probe"}
    assert len({trial.confirms for trial in refits}) == 2
    assert any("are averaged" in note for note in place.notes)
    pictures = [np.full((16, 16, 3), shade, np.uint8) for shade in (40, 200)]
    network = loaded.network
    assert isinstance(network, Ensemble)
    looks = network.looks(
        network.info.inputs.to_model(torch.from_numpy(np.stack([loaded.encode(one) for one in pictures]))),
        mirrored=False,
    )[:, 0]
    first = looks[:, : recipes[0].members].softmax(2).mean(1)
    second = (2 * looks[:, recipes[0].members :]).softmax(2).mean(1)
    np.testing.assert_allclose(
        loaded.task.decode(torch.from_numpy(loaded.logits(pictures)), loaded.target_spec, {})[1].numpy(),
        ((first + second) / 2).numpy(),
        atol=1e-5,
    )
    assert f"{told['members']:g} networks of 2 recipes averaged" in made_of(told)
    assert place.run(**MIXED).model == result.model, "it stands"


@pytest.mark.usefixtures("averaging")
@pytest.mark.parametrize("left_out", [{"ensemble": False}, {"members": 1}, {"refit": False}])
def test_who_wants_one_recipe_gets_one(place: Place, left_out: dict[str, Any]) -> None:
    result = place.run(**{**MIXED, "search": {**MIXED["search"], **left_out}})
    assert result.model is not None
    assert tlsearch.load(result.model.uri).manifest.recipes == ()
    assert result.model.metrics[HANDED_OUT]["recipes"] == 1


@pytest.mark.usefixtures("averaging")
def test_a_finalist_that_does_not_reproduce_its_score_is_not_averaged(place: Place) -> None:
    def wrong(path: Path, **question: Any) -> Any:
        if question["mix"] is not None:
            question["values"] = [question["values"][0], *[value - 0.1 for value in question["values"][1:]]]
        return verify_here(path, **question)

    result = place.run(verify=wrong, **MIXED)
    assert result.model is not None
    assert result.model.metrics[HANDED_OUT]["recipes"] == 1
    assert any("is not averaged: accuracy on the validation split is" in note for note in place.notes)


def test_a_refit_that_collapsed_is_refused_before_the_test_set_is_opened(place: Place) -> None:
    asked: list[dict[str, Any]] = []

    def strict(path: Path, **question: Any) -> Any:
        asked.append(question)
        return verify_here(path, **{**question, "least": 1.01 if question["least"] is not None else None})

    result = place.run(verify=strict)
    assert result.model is not None
    assert result.model.metrics[HANDED_OUT]["refitted"] == 0
    assert any("the refitted model was refused" in note for note in place.notes)
    assert [question["test"] for question in asked] == [False, True, True]
    assert place.openings() == 1, "the refused model never saw it"


def test_a_finished_study_opens_its_test_set_no_more(place: Place) -> None:
    first = place.run()
    again = place.run()
    assert again.model == first.model
    more = place.run(budget={"trials": 4, "epochs": 2})
    assert more.model is not None
    assert first.model is not None
    same = more.model.trial == first.model.trial
    assert place.openings() == (1 if same else 2)
    assert (more.model == first.model) is same


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the winner is chosen, no time is left to train."""
    monkeypatch.setattr(Budget, "seconds_to_train", property(lambda _: -1.0))


@pytest.mark.usefixtures("late")
def test_heads_are_refitted_even_where_no_time_is_left(place: Place) -> None:
    result = place.run(strategies=["linear_probe"])
    assert result.model is not None
    assert result.model.metrics[HANDED_OUT]["refitted"] == 1
    assert len(place.trials(TrialRole.REFIT)) == 1


@pytest.mark.usefixtures("late")
def test_the_test_set_is_not_opened_again_for_the_same_networks(place: Place) -> None:
    first = place.run(search={**SMALL["search"], "confirm_seeds": 0})
    assert first.model is not None
    assert first.model.metrics[HANDED_OUT]["refitted"] == 0
    assert any("no time is left to refit" in note for note in place.notes)
    more = place.run(search={**SMALL["search"], "confirm_seeds": 0}, budget={"trials": 4, "epochs": 2})
    assert more.model is not None
    assert more.model.trial == first.model.trial, "else this test says nothing"
    assert more.model == first.model
    assert place.openings() == 1


def test_a_driver_that_was_stopped_in_the_refit_goes_on_with_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlsearch.search.lease_heartbeat import Interruption

    stopped: list[Interruption] = []
    real = Interruption.__init__ if hasattr(Interruption, "__init__") else None
    assert real is not None

    def remember(self: Interruption, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        stopped.append(self)

    monkeypatch.setattr(Interruption, "__init__", remember)

    def interrupt(told: Snapshot) -> None:
        place.told.append(told)
        if told.phase == "refit the winner" and told.done == 1:
            stopped[-1].reason = "SIGINT"
            stopped[-1].signal = 2

    with one_process(verify=verify_here):
        left = studies.run(
            study(**SMALL),
            database=place.url,
            artifacts=place.folder / "artifacts",
            observe=interrupt,
        )
    assert left.model is None
    monkeypatch.undo()
    monkeypatch.setenv("TLSEARCH_CACHE", str(place.folder / "cache"))
    before = [trial for trial in place.trials(TrialRole.REFIT) if trial.state is TrialState.COMPLETE]
    assert len(before) == 1
    result = place.run()
    assert result.model is not None
    refits = place.trials(TrialRole.REFIT)
    assert len(refits) == 3
    assert result.model.metrics[HANDED_OUT]["members"] == 3
    assert place.openings() == 1


# Arithmetic


def record(**changes: Any) -> TrialRecord:
    from datetime import UTC, datetime

    from tlsearch.records import Costs

    plain = TrialRecord(
        study="s",
        number=0,
        state=TrialState.COMPLETE,
        reason="all 2 epochs",
        role=TrialRole.SEARCH,
        confirms=None,
        backbone="tiny/net",
        strategy="fine_tune",
        freeze_depth=None,
        groups=None,
        params={},
        value=0.9,
        metrics={"accuracy": 0.9, "log_loss": 0.3},
        costs=Costs(seconds=10.0),
        seed=0,
        attempt=1,
        cache="",
        node="",
        started=datetime.now(UTC),
        finished=None,
        artifact=None,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("left", "members", "slots", "affordable"),
    [
        (math.inf, 3, 1, 3),
        (1000.0, 3, 1, 3),
        (15.0, 3, 1, 1),
        (17.0, 3, 1, 2),  # the second for half its length
        (15.0, 3, 2, 2),
        (17.0, 3, 2, 3),
        (5.6, 3, 2, 2),
        (5.4, 3, 2, 0),  # less than half of the length
        (-1.0, 3, 2, 0),
    ],
)
def test_members_are_trained_as_time_allows(left: float, members: int, slots: int, affordable: int) -> None:
    assert refit.affordable(10.0, left=left, members=members, slots=slots) == affordable


def test_a_floor_lies_below_the_winner_by_noise_alone() -> None:
    metric = registry.task("classification").metric
    assert refit.floor(0.9, items=300, metric=metric("accuracy")) == pytest.approx(0.9 - 2 * 0.0173, abs=1e-3)
    assert refit.floor(1.0, items=20, metric=metric("accuracy")) < 1.0
    assert refit.floor(0.3, items=20, metric=metric("log_loss")) > 0.3


def test_members_cut_short_by_time_are_not_handed_out() -> None:
    from tlsearch.records import Artifact

    whole = record(number=5, confirms=0, role=TrialRole.REFIT, artifact=Artifact("u", "s", 1))
    cut = replace(whole, number=6, seed=1, reason="stopped at the time budget in epoch 1 of 2")
    assert refit.members_of(record(), [whole, cut]) == [whole]
    twin = replace(whole, number=7, seed=2)
    assert refit.members_of(record(), [whole, twin]) == [whole], "a fit without randomness needs no average"
    other = replace(whole, number=8, seed=3, artifact=Artifact("v", "t", 1))
    assert refit.members_of(record(), [whole, twin, other]) == [whole, other]


def test_the_length_is_that_of_the_winner_or_its_best_epoch() -> None:
    from tlsearch.records import EpochRecord

    def epoch(number: int, stop: float) -> EpochRecord:
        return EpochRecord(number, 0.9, {"stop_accuracy": stop, "stop_log_loss": 1.0}, 1.0)

    length = partial(refit.length, task=registry.task("classification"), metric="accuracy")
    curve = [epoch(1, 0.5), epoch(2, 0.8), epoch(3, 0.7), epoch(4, 0.7)]
    assert length(record(reason="all 4 epochs"), curve) == 4
    early = record(reason="stopped early: no better epoch on the stop split since epoch 2")
    assert length(early, curve) == 2
    assert length(record(reason="fitted on stored features"), curve[:1]) is None


@pytest.mark.slow
def test_workers_refit_and_the_commands_tell_of_it(commands: Any) -> None:
    """Through Ray: the same workers search, confirm and refit."""
    here = commands
    here.run("run", here.study(search={"refit": True, "members": 2}, budget={"trials": 4}))
    trials = here.ask("trials", "tiny")
    refits = [trial for trial in trials if trial["role"] == "refit"]
    assert [trial["state"] for trial in refits] == ["COMPLETE", "COMPLETE"]
    best = here.ask("best", "tiny")
    assert best["metrics"][HANDED_OUT]["members"] == 2
    assert best["trial"] == refits[0]["confirms"]
    told = " ".join(here.run("best", "tiny").stdout.split())
    assert "2 networks averaged, trained anew on all but the test items" in told
    assert "test set opened once" in told
    picture = next(here.images.rglob("*.png"))
    (answer,) = here.ask("predict", "tiny", picture)
    assert answer["label"] in ("disc", "frame", "stripes")
