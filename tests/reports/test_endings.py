"""What became of a study's trials, in a line."""

from __future__ import annotations

from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.models.intervals import wilson
from tlsearch.reports.endings import in_a_line


def test_what_was_pruned_and_why_is_one_line(searched):
    with searched.store as store:
        trials = [t for t in store.trials(searched.name) if t.confirms is None]
    line = in_a_line(trials)
    assert line.startswith(f"{len(trials)} trials: {len(trials) - 2} complete, ")
    assert "1 pruned (stopped by ASHA: others were better at the same epoch)" in line
    assert "1 failed (" in line
    assert "the loss fell over" in line
    assert "\n" not in line
    told = CliRunner().invoke(app, ["show", searched.name, "--db", searched.url]).stdout
    assert line in told


def test_scores_come_with_their_certainty_and_fit_a_terminal(searched):
    told = CliRunner().invoke(app, ["best", searched.name, "--db", searched.url]).stdout
    with searched.store as store:
        count = store.dataset(store.study(searched.name).fingerprint).counts["test"]
    interval = wilson(8, count)
    assert f"(95% interval {interval.low:.3f} to {interval.high:.3f}: {count} items)" in told
    table = told.partition("\nModel:")[0]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
