"""Trials are those of the search, whoever counts them; runs that repeat the best are counted apart."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.records import TrialRole, TrialState
from tlsearch.reports import html
from tlsearch.reports.evidence import gather
from tlsearch.reports.formatting import trials


@pytest.fixture
def told(searched):
    def ask(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--db", searched.url], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return ask


def test_every_place_tells_the_same_number_of_trials(searched, told):
    with searched.store as store:
        found = store.trials(searched.name)
        evidence = gather(store, searched.name)
    own = [trial for trial in found if trial.role is TrialRole.SEARCH]
    complete = sum(trial.state is TrialState.COMPLETE for trial in own)
    assert 0 < complete < len(own) < len(found)
    counted = f"{complete} complete, 1 pruned, 1 failed; {len(found) - len(own)} reruns of the best"
    shown = told("show", searched.name)
    assert f"trials: {counted}" in shown
    assert f"{len(own)} trials: {complete} complete" in shown  # below the leaderboard
    assert told("compare", searched.name, searched.name).count(counted) == 2
    (row,) = csv.DictReader(io.StringIO(told("study", "list", "--csv")))
    assert sum(int(row[state]) for state in TrialState) == len(own)
    assert int(row["reruns"]) == len(found) - len(own)
    listed = told("study", "list").splitlines()[-1].split()
    assert str(len(own)) in listed
    assert str(complete) in listed
    page = html.render(evidence, html.Looked(None, "not looked", {}))
    assert f"· {len(own)} trials\n" in page
    assert counted in page


def test_a_study_of_one_trial_says_so(searched):
    one = dict.fromkeys(TrialState, 0) | {TrialState.COMPLETE: 1}
    with searched.store as store:
        record = store.study(searched.name)
    assert trials(replace(record, searched=one, counts=one)) == "1 complete"
    again = one | {TrialState.FAILED: 1}
    assert trials(replace(record, searched=one, counts=again)) == "1 complete; 1 rerun of the best"
