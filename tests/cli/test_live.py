"""What a running search says of itself."""

from __future__ import annotations

from tlsearch.cli.live import LineView, describe
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
        view(Snapshot(phase="search", note="nothing more goes to mlflow: the disk is full"))
    assert "note: nothing more goes to mlflow" in capsys.readouterr().err
