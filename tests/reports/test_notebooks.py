"""What notebooks show of studies."""

from __future__ import annotations

import json

import pytest

from tlsearch.records import TrialRole
from tlsearch.reports.studies import Studies
from tlsearch.search.result import StudyResult


@pytest.fixture
def studies(searched):
    with Studies(searched.url) as database:
        yield database


def test_result_study_best_and_leaderboard_are_tables(studies, searched):
    record = studies.study(searched.name)
    with searched.store as store:
        model, (best, *_) = store.model(searched.name), store.best(searched.name)
    result = StudyResult(record, model, best, interrupted="")._repr_html_()
    for shown in (result, studies.best(searched.name)._repr_html_()):
        assert best.strategy in shown
        assert f"{model.metrics['test']['accuracy']:.4f}" in shown
        assert model.uri in shown
    assert " complete" in record._repr_html_()
    board = record.leaderboard(3)
    values = [trial.value for trial in board.trials]
    assert values == sorted(values, reverse=True)
    assert len(values) == 3
    assert all(trial.role is TrialRole.SEARCH for trial in board.trials)
    assert all(f"<td>{value:.4f}</td>" in board._repr_html_() for value in values)


def test_names_are_no_html(studies, searched):
    from dataclasses import replace

    board = studies.study(searched.name).leaderboard(1)
    odd = replace(board, trials=(replace(board.trials[0], strategy="<script>"),))
    assert "<script>" not in odd._repr_html_()


def test_figures_are_those_of_the_report_in_real_colours(studies, searched):
    figures = studies.study(searched.name).figures()
    assert {"history", "branches", "rate", "curves"} <= figures.keys()
    for figure in figures.values():
        bundle = figure.to_plotly_json()
        assert "--" not in json.dumps(bundle["data"], default=str)
        assert figure.layout.title.subtitle.text
    assert len(figures["branches"].data) == 2
