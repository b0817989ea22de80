"""Both backends keep the contract of the seam."""

from __future__ import annotations

import sys

import pytest

from tlsearch.search import ray_cluster
from tlsearch.search.backends.local import LocalBackend
from tlsearch.search.workers import Workers
from tlsearch.testing.trial_backends import RecordingDispatcher, TrialBackendContract, _points


class TestLocalBackend(TrialBackendContract):
    def backend(self, spec, assignment):
        return LocalBackend(assignment, at_once=2)

    def test_work_for_others_is_put_back(self, tmp_path):
        """The run ends there, and another backend goes on with it."""

        class Picky(TestLocalBackend):
            def backend(self, spec, assignment):
                return LocalBackend(assignment, accepts=lambda point: point.number < 2)

        told = Picky().run(RecordingDispatcher([_points(0, 1), _points(1, 3), _points(4, 1)]), tmp_path)
        assert told.done == [0, 1]
        assert [[point.number for point in points] for points in told.left] == [[2, 3], [4]]

    def test_after_its_seconds_it_begins_nothing(self, tmp_path):
        class Over(TestLocalBackend):
            def backend(self, spec, assignment):
                return LocalBackend(assignment, seconds=0.0)

        told = Over().run(RecordingDispatcher([_points(0, 1)]), tmp_path)
        assert not told.done
        assert len(told.left) == 1


@pytest.fixture(scope="module")
def ray():
    ray_cluster.start(address=None)
    yield
    ray_cluster.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
class TestRayTuneBackend(TrialBackendContract):
    def backend(self, spec, assignment):
        from tlsearch.search.backends.ray_tune import RayTuneBackend

        return RayTuneBackend(Workers(2, 0.0, None, share=lambda: 2), assignment, spec, alone=True)

    def test_loggers_that_nobody_asked_for_are_not_imported(self, tmp_path, monkeypatch):
        """Ray imports all that it knows where it is given a callback: mlflow alone takes two seconds."""
        for name in ("comet", "mlflow", "wandb"):
            monkeypatch.setitem(sys.modules, f"ray.air.integrations.{name}", None)
        assert self.run(RecordingDispatcher([_points(0, 1)]), tmp_path).done == [0]
