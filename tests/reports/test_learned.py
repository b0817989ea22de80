"""What a model has learned from, and what its score is to be read beside."""

from __future__ import annotations

import dataclasses

import pytest

from tlsearch.records import CUT_SHORT, HANDED_OUT, TrialRole, TrialState
from tlsearch.reports.baseline import Baseline, baseline_of
from tlsearch.reports.evidence import gather
from tlsearch.reports.formatting import made_of
from tlsearch.reports.learned import learned_from


@pytest.fixture
def evidence(searched):
    with searched.store as store:
        return gather(store, searched.name)


def told_of(evidence, *, refitted=0.0, recipes=1.0, spec=None, **refit):
    """What is told of a model, with one refit of the winner where ``refit`` says how it ended."""
    dataset = dataclasses.replace(evidence.dataset, counts={"train": 150, "stop": 30, "val": 60, "test": 60})
    metrics = {**evidence.model.metrics, HANDED_OUT: {"refitted": refitted, "recipes": recipes}}
    winner = evidence.winner
    again = dataclasses.replace(winner, number=90, role=TrialRole.REFIT, confirms=winner.number, **refit)
    return learned_from(
        dataclasses.replace(evidence.study, spec={**evidence.study.spec, **(spec or {})}),
        dataset,
        dataclasses.replace(evidence.model, metrics=metrics),
        winner=winner,
        refits=[again] if refit else [],
    )


def test_a_refitted_model_has_learned_from_all_but_the_test_items(evidence):
    whole = {"state": TrialState.COMPLETE, "reason": ""}
    told = "240 of 300 labelled items: all but the test items"
    assert told_of(evidence, refitted=1.0, **whole) == told
    assert told_of(evidence, refitted=1.0, recipes=2.0, **whole) == (
        f"{told}; but not all of its recipes were trained anew, and the others have learned from 150"
    )


@pytest.mark.parametrize(
    ("refit", "why"),
    [
        ({}, "no time to train it anew on these too. `tlsearch study resume "),
        (
            {"state": TrialState.COMPLETE, "reason": f"{CUT_SHORT} in epoch 1 of 3"},
            f"(trial 90 was {CUT_SHORT} in",
        ),
        ({"state": TrialState.FAILED, "reason": "the loss is nan"}, "failed (trial 90: the loss is nan)"),
        ({"state": TrialState.COMPLETE, "reason": ""}, "was refused when it was verified"),
    ],
)
def test_a_model_of_the_search_says_why_it_has_learned_from_no_more(evidence, refit, why):
    told = told_of(evidence, **refit)
    assert told.startswith(
        "150 of 300 labelled items, without the 60 for validation and 30 for early stopping: "
    )
    assert why in told


def test_a_study_that_wants_no_refit_is_not_sent_for_more_time(evidence):
    told = told_of(evidence, spec={"search": {"refit": False}})
    assert told.endswith(": search.refit is false")


def test_slow_trials_are_given_more_than_the_least_minutes(evidence):
    costs = dataclasses.replace(evidence.winner.costs, seconds=600.0)
    slow = dataclasses.replace(evidence.winner, costs=costs)
    trials = [slow if one.number == slow.number else one for one in evidence.trials]
    assert "--minutes +20`" in told_of(dataclasses.replace(evidence, trials=trials))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"refitted": 0.0, "members": 1.0}, "the trial's own weights"),
        (
            {"refitted": 0.0, "members": 2.0, "recipes": 2.0},
            "2 networks of 2 recipes averaged, as the search trained them",
        ),
        ({"refitted": 1.0, "members": 1.0}, "one network, trained anew on all but the test items"),
        ({}, ""),
    ],
)
def test_what_a_model_is_made_of(made, told):
    assert made_of(made) == told


AUDIT = {
    "baseline": {
        "words": "always answering the median",
        "scores": {"val": {"mae": 3.5}, "test": {"mae": 3.0, "r2": -0.1}},
    }
}


def test_the_baseline_is_of_the_items_that_the_model_was_tested_on():
    scores = {"val": {"mae": 2.0}, "test": {"mae": 2.5}}
    assert baseline_of(AUDIT, scores, "mae") == Baseline("test", "mae", "always answering the median", 3.0)
    on_val = baseline_of(AUDIT, {"val": {"mae": 2.0}}, "mae")
    assert on_val is not None
    assert (on_val.split, on_val.value) == ("val", 3.5)


@pytest.mark.parametrize(
    ("audit", "metric"), [({}, "mae"), ({"baseline": None}, "mae"), (AUDIT, "quadratic_kappa")]
)
def test_no_baseline_where_none_was_measured(audit, metric):
    assert baseline_of(audit, {"test": {"mae": 2.0}}, metric) is None
