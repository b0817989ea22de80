"""A trial that a plugin's code ends is FAILED, and its reason names the plugin's package and version."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from tiny_bench import bench, outcomes, point, results
from torch import nn
from torch.nn.functional import cross_entropy

from tlsearch.contracts import FineTuning, HeadStrategy
from tlsearch.records import TrialState
from tlsearch.testing import installed
from tlsearch.training.failures import failed
from tlsearch.training.head_trials import RIGHT

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
    assert ended[0].reason == f"fit_heads returned 0 heads for 1 point; {RIGHT} {WHO}"
    assert re.fullmatch(
        rf"SystemExit: 1 at test_culprit.py line \d+ in fit_heads {re.escape(WHO)}", ended[1].reason
    )


class Unreduced(FineTuning):
    def loss(self, model, batch, params):
        return cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class Plain(FineTuning):
    def loss(self, model, batch, params):
        return super().loss(model, batch, params).item()


class WidePenalty(FineTuning):
    def penalty(self, model, params):
        return torch.ones(3)


class NotANumber(FineTuning):
    def loss(self, model, batch, params):
        return super().loss(model, batch, params) * float("nan")


class OneHead(ExitingHeads):
    def fit_heads(self, task, points):
        return nn.Linear(task.features.shape[-1], task.classes)


class NoHeads(ExitingHeads):
    def fit_heads(self, task, points):
        return None


class Helped(FineTuning):
    """Fails in torch, which a function of its module calls."""

    def loss(self, model, batch, params):
        return _squeezed(model(batch.inputs))


def _squeezed(outputs):
    return outputs.reshape(-1, 7, 11)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Unreduced, r"loss returned a tensor of shape \(\d+,\); right is a scalar, such as its mean"),
        (Plain, "loss returned a float; right is a scalar tensor"),
        (WidePenalty, r"penalty returned a tensor of shape \(3,\); right is a scalar, .*"),
        (NotANumber, "the loss was nan at the first update, before anything was learned: look at .*"),
        (OneHead, f"fit_heads returned a Linear; {RIGHT}"),
        (NoHeads, f"fit_heads returned a NoneType; {RIGHT}"),
        (Helped, r"RuntimeError: shape .* is invalid .* at test_culprit.py line \d+ in _squeezed"),
    ],
)
def test_a_hook_that_gives_what_it_must_not_is_told_what_is_right(tmp_path, kind, said):
    with installed(strategies={"culprit": kind}):
        outcome = outcomes(results(bench(tmp_path), point("culprit")))[0]
    assert outcome.state is TrialState.FAILED
    assert re.fullmatch(f"{said} {re.escape(WHO)}", outcome.reason), outcome.reason


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
