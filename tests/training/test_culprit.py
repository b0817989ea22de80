"""A trial that a plugin's code ends is FAILED, and its reason names the plugin's package and version."""

from __future__ import annotations

import sys

import pytest
from tiny_bench import bench, outcomes, point, results

from tlsearch.contracts import FineTuning, HeadStrategy
from tlsearch.records import TrialState
from tlsearch.testing import installed
from tlsearch.training.failures import failed

WHO = "(strategy 'culprit' of tlsearch-under-test 1.0)"


class Exiting(FineTuning):
    def loss(self, model, batch, params):
        sys.exit("enough")


class Wordy(FineTuning):
    def prepare(self, model, params):
        raise RuntimeError("x" * 5_000)


class ExitingHeads(HeadStrategy):
    def space(self, backbone):
        return {}

    def default(self, backbone):
        return {}

    def fit_heads(self, task, points):
        if any(point.seed == 1 for point in points):
            sys.exit(1)
        return task.train_linear([])[:0]


@pytest.mark.parametrize(("kind", "said"), [(Exiting, "SystemExit: enough"), (Wordy, "RuntimeError: xxx")])
def test_the_culprit_is_named(tmp_path, kind, said):
    with installed(strategies={"culprit": kind}):
        worker = bench(tmp_path)
        outcome = outcomes(results(worker, point("culprit")))[0]
        assert outcome.state is TrialState.FAILED
        assert outcome.reason.startswith(said)
        assert outcome.reason.endswith(WHO)
        assert len(outcome.reason) <= 2_000
        assert outcomes(results(worker, point("fine_tune")))[0].state is TrialState.COMPLETE


def test_one_head_that_exits_is_told_from_the_rest(tmp_path):
    with installed(strategies={"culprit": ExitingHeads}):
        items = [point("culprit", number, seed=number) for number in (0, 1)]
        ended = outcomes(results(bench(tmp_path), *items))
    assert ended[0].reason == "the strategy returned 0 heads for 1 point"
    assert ended[1].reason == f"SystemExit: 1 {WHO}"


def test_a_worker_that_is_told_to_stop_stops():
    space = {"__name__": "ray._private.worker"}
    exec("def handler():\n    raise SystemExit('SIGTERM')", space)
    with pytest.raises(SystemExit) as caught:
        space["handler"]()
    with pytest.raises(SystemExit, match="SIGTERM"):
        failed(point(), caught.value)


def test_an_error_of_our_own_names_no_plugin(tmp_path):
    outcome = outcomes(results(bench(tmp_path), point("fine_tune", optimizer="adagrad")))[0]
    assert "tlsearch 0" not in outcome.reason
