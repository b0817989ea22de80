"""Studies steered from elsewhere: extended, paused, cancelled, forked, resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.database.conftest import DATASET, outcome, point, result
from tlsearch.database.store import Store
from tlsearch.errors import InputError, SpecError, StudyConflictError, UnknownNameError
from tlsearch.records import StudyState, TrialState
from tlsearch.search import control
from tlsearch.spec import StudySpec, parse

STUDY = {
    "study": "flowers",
    "data": {"source": "folder", "path": "/data/flowers"},
    "backbones": ["timm/resnet18"],
    "budget": {"trials": 20},
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def enter(url: str, **changes: object) -> StudySpec:
    """A study in the database with three ended trials and a left one."""
    spec = parse({**STUDY, **changes})
    with Store.open(url, create=True) as store:
        store.create_study(
            name=spec.study,
            spec=spec.to_json(),
            metric="accuracy",
            direction="maximize",
            dataset=DATASET,
            plugins=[],
            versions={},
            owner="ann",
        )
        lease = store.acquire(spec.study, owner="ann@host:1:0")
        store.start_trials(lease, [point(number) for number in range(4)])
        ends = [outcome(0.5), outcome(0.25, state=TrialState.PRUNED), outcome(None, state=TrialState.FAILED)]
        store.record(lease, [result(number, outcome=end) for number, end in enumerate(ends)])
        store.end_trials(lease, [3], TrialState.CANCELLED, "interrupted")
        store.release(lease, state=StudyState.INTERRUPTED)
    return spec


def test_more_trials_count_from_what_the_study_had(url: str) -> None:
    spec = parse(STUDY)
    assert control.trials_in_all("60", spec, url) == 60
    assert control.trials_in_all("+50", spec, url) == 70  # no database yet: from the file
    enter(url, budget={"trials": 33})
    assert control.trials_in_all("+50", spec, url) == 83
    assert control.trials_in_all("+50", parse({**STUDY, "study": "birds"}), url) == 70
    for wrong in ("many", "", "+", "1.5"):
        with pytest.raises(InputError, match=r"--trials takes a number such as 60 or \+50"):
            control.trials_in_all(wrong, spec, url)


def test_a_stored_study_comes_back_whole_unless_it_is_over(url: str) -> None:
    spec = enter(url)
    assert control.stored(url, "flowers") == spec
    with pytest.raises(UnknownNameError, match="Did you mean"):
        control.stored(url, "flower")
    with pytest.raises(StudyConflictError, match="Nobody runs"):
        control.pause(url, "flowers")
    assert control.cancel(url, "flowers") is False
    with pytest.raises(StudyConflictError, match="was cancelled by"):
        control.stored(url, "flowers")


def test_a_fork_is_a_study_of_its_own_with_a_history(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLSEARCH_USER", "bob")
    enter(url)
    made = control.fork(
        url, "flowers", "flowers-2", overrides={"budget.trials": 5, "strategies": ["fine_tune"]}
    )
    assert (made.name, made.owner, made.parent) == ("flowers-2", "bob", "flowers")
    assert (made.spec["study"], made.spec["budget"]["trials"]) == ("flowers-2", 5)
    assert made.fingerprint == DATASET.fingerprint
    again = control.fork(url, "flowers-2", "flowers-3", overrides={})
    with Store.open(url) as store:
        assert store.trials("flowers-2") == []
        history = control.inherited(store, again)
        # What told nothing is no history; grandparents count.
        assert [trial.state for trial in history] == [
            TrialState.COMPLETE,
            TrialState.PRUNED,
            TrialState.FAILED,
        ]
        assert {trial.study for trial in history} == {"flowers"}
        store.delete_study("flowers")
        assert control.inherited(store, again) == []


def test_forks_that_would_compare_the_incomparable_are_refused(url: str) -> None:
    enter(url)
    for overrides, part in (
        ({"objective.metric": "log_loss"}, "objective"),
        ({"data.image_size": 99}, "data"),
    ):
        with pytest.raises(StudyConflictError, match=f"keeps the {part} of its parent"):
            control.fork(url, "flowers", "other", overrides=overrides)
    moved = control.fork(url, "flowers", "moved", overrides={"data.path": "/mnt/flowers"})
    assert moved.spec["data"]["path"] == "/mnt/flowers"
    with pytest.raises(StudyConflictError, match='"moved" exists already'):
        control.fork(url, "flowers", "moved", overrides={})
    with pytest.raises(SpecError, match=r"budget\.trils"):
        control.fork(url, "flowers", "x", overrides={"budget.trils": 5})
    with pytest.raises(SpecError, match="study"):
        control.fork(url, "flowers", "../x", overrides={})


@pytest.mark.parametrize(("text", "minutes"), [("4", 4.0), ("+4", 9.0), ("+0.5", 5.5)])
def test_minutes_add_to_what_a_study_had(url, text, minutes):
    known = enter(url, budget={"trials": 20, "minutes": 5})
    assert control.minutes_in_all(text, known, url) == minutes


def test_minutes_of_a_study_that_is_new_add_to_its_file(url):
    known = parse({**STUDY, "budget": {"minutes": 2}})
    assert control.minutes_in_all("+4", known, url) == 6
    for wrong in ("nan", "soon", "inf"):
        with pytest.raises(InputError, match="--minutes"):
            control.minutes_in_all(wrong, known, url)
