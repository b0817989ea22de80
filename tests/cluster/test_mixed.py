"""Nodes with and without GPUs: the GPUs are pretended, so only where trials are placed can be seen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]  # nodes take long to start on a busy machine

PLACES = """
import json, math, sys, tempfile
from pathlib import Path
from tlsearch.records import Point
from tlsearch.search import ray_cluster
from tlsearch.search.backends.ray_tune import RayTuneBackend
from tlsearch.search.workers import Workers
from tlsearch.spec import parse
from tlsearch.training.workspace import WorkerConfig

class Dispatcher:
    deadline, prune = math.inf, False
    def __init__(self):
        # Strategies that nobody has: trials end at once, and tell where.
        names = ["gradients", "heads"] * 6
        self.left = [Point(i, "tiny/net", name, {}, seed=0) for i, name in enumerate(names)]
        self.open = 0
        self.seen = {"gradients": [], "heads": []}
        self.names = {p.number: p.strategy for p in self.left}
    def next_turn(self):
        if self.open >= 3:
            return []
        if not self.left:
            return None
        self.open += 1
        return [self.left.pop(0)]
    def record(self, results):
        for result in results:
            self.seen[self.names[result.number]].append(result.node)
    def ended(self, points, error):
        assert error is None, error
        self.open -= 1
    def must_stop(self):
        return False

ray_cluster.start(address=sys.argv[1])
dispatcher = Dispatcher()
slots = ray_cluster.slots(cpus_per_trial=1, gpus_per_trial=0.5)
free = ray_cluster.slots_without_gpu(cpus_per_trial=1)
spec = parse({"study": "s", "data": {"source": "digits"}, "backbones": ["tiny/net"], "budget": {"epochs": 1}})
folder = tempfile.mkdtemp()
workers = Workers(slots=3, gpus=0.5, on_cpus=lambda strategy: strategy == "heads", share=lambda: 3)
assignment = WorkerConfig(spec, Path(folder), folder, 0, 1, cuda=True)
RayTuneBackend(workers, assignment, spec, alone=False).run(dispatcher)
ray_cluster.stop()
print(json.dumps({"slots": [slots, free], **dispatcher.seen}))
"""


def test_gradients_are_trained_where_gpus_are_and_heads_on_any_cpu(ray_cluster):
    ray_cluster.add("g1", cpus=1, gpus=1)  # where gradients are trained, no CPU is left for heads
    ray_cluster.wait_for("g1")
    done = subprocess.run(
        [sys.executable, "-c", PLACES, ray_cluster.gcs],
        env=ray_cluster.env,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["slots"] == [1, 2]
    assert seen["gradients"] == ["g1"] * 6
    assert len(seen["heads"]) == 6
    assert {"w1", "w2"} & set(seen["heads"])  # they take no GPU
