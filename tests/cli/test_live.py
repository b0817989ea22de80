"""What a running search says of itself."""

from __future__ import annotations

import io

from rich.console import Console

from tlsearch.cli.live import LineView, TerminalView, describe
from tlsearch.records import Outcome, Point, TrialState
from tlsearch.search.progress import Best, Snapshot


def test_tells_counts_best_strategies_speed_and_time():
    point = Point(3, "timm/resnet18", "fine_tune", {}, 0)
    best = Best(point, Outcome(TrialState.COMPLETE, "", 0.9123, freeze_depth=2, groups=5))
    said = describe(
        Snapshot(
            phase="search",
            done=6,
            total=20,
            counts={TrialState.RUNNING: 2, TrialState.COMPLETE: 5, TrialState.FAILED: 1},
            best=best,
            by_strategy={"fine_tune": 0.9123, "linear_probe": 0.85},
            seconds_left=61.0,
            per_minute=12.34,
            cached=4,
        )
    )
    assert said == [
        "search 6/20",
        "2 running, 5 complete, 1 failed",
        "best 0.9123: trial 3, fine_tune on timm/resnet18, freeze depth 2/5",
        "fine_tune 0.9123, linear_probe 0.8500",
        "12.3 trials a minute, 4 with cached activations",
        "1:01 left",
    ]


def test_says_nothing_of_speed_before_a_trial_has_ended():
    assert describe(Snapshot(phase="start workers")) == ["start workers"]


def test_notes_are_lines_of_their_own(capsys):
    with LineView() as view:
        view(Snapshot(phase="search", note="logging to mlflow stopped: the disk is full"))
    assert "note: logging to mlflow stopped" in capsys.readouterr().err


def test_a_note_begins_no_phase_and_an_end_is_told_once(capsys):
    with LineView() as view:
        view(Snapshot(phase="search", total=3))
        view(Snapshot(phase="refit the winner", note="no time is left to refit trial 3"))
        view(Snapshot(phase="search", total=3))
        view(Snapshot(phase="verify the winner", done=9, total=9))
        view(Snapshot(phase="verify the winner", done=9, total=9))
    lines = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["search 0/3", "note: no time is left to refit trial 3", "verify the winner 9/9"]
    terminal = TerminalView()
    terminal(Snapshot(phase="search", total=3))
    terminal(Snapshot(phase="refit the winner", note="no time is left to refit trial 3"))
    assert "refit the winner" not in seen(terminal)


def test_pruned_and_interrupted_trials_are_explained():
    counts = {TrialState.PRUNED: 3, TrialState.CANCELLED: 1}
    _, said = describe(Snapshot(phase="search", counts=counts))
    assert said == "3 pruned (behind others at the same epoch), 1 interrupted (to run again)"


def seen(view: TerminalView) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(view.draw())
    return stream.getvalue()


def test_time_left_moves_between_snapshots_and_into_the_next_phase(monkeypatch):
    view = TerminalView()
    now = 1000.0
    monkeypatch.setattr("tlsearch.cli.live.time.monotonic", lambda: now)
    view(Snapshot(phase="search", done=1, total=9, seconds_left=90.0))
    assert "1:30 left" in seen(view)
    now += 20
    assert "1:10 left" in seen(view)
    view(Snapshot(phase="verify the winner"))
    assert "1:10 left" in seen(view)
    assert view.live.transient  # nothing of it stays above the result
