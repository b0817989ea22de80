"""A runner on real data and real weights, as every benchmark needs one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlsearch import registry
from tlsearch.contracts import Backbone, Pretrained, Strategy
from tlsearch.records import Params, Point
from tlsearch.search.setup import prepare
from tlsearch.spec import parse
from tlsearch.training.batch_source import BatchSource, Counts
from tlsearch.training.data import Data
from tlsearch.training.split_point import SplitPoint, find_split_point
from tlsearch.training.trial import TrialRunner
from tlsearch.training.workspace import WorkerConfig

BACKBONE = "efficientnet_lite/lite0"
FASHION = "/usr/share/datasets/fashion-mnist"


@dataclass
class Bench:
    """A warm worker with its data, in a cache folder of its own."""

    runner: TrialRunner
    pretrained: Pretrained
    data: Data

    def model(self, strategy: str, params: Params, *, seed: int = 0) -> tuple[Strategy, Backbone]:
        """A prepared model."""
        plugin = registry.strategy(strategy)
        point = Point(0, BACKBONE, strategy, params, seed)
        return plugin, self.runner.build(plugin, point, self.pretrained, self.data, None)

    def feed(self, model: Backbone, *, cached: bool, policy: str = "none") -> tuple[SplitPoint, BatchSource]:
        """The split point of a model and what feeds it."""
        split_point = find_split_point(model, self.runner.example(self.pretrained))
        feed = self.runner.feed(self.data, self.pretrained, split_point, policy, Counts(), lambda: model)
        if not cached:
            feed.store = None
        return split_point, feed


def bench(data: dict[str, Any], *, threads: int = 1, epochs: int = 3, seed: int = 0) -> Bench:
    """Prepare data and backbone for a benchmark."""
    spec = parse(
        {"study": "bench", "data": data, "backbones": [BACKBONE], "budget": {"epochs": epochs}, "seed": seed}
    )
    folder = Path(tempfile.mkdtemp(prefix="tlsearch-bench-"))
    prepared = prepare(spec, cache=folder, threads=2, observe=lambda snapshot: None)
    runner = TrialRunner(
        WorkerConfig(
            spec=spec,
            cache=folder,
            artifacts=folder / "artifacts",
            cache_bytes=20 * 2**30,
            threads=threads,
            cuda=False,
            data=prepared.data,
        )
    )
    pretrained = runner.backbone(BACKBONE)
    return Bench(runner, pretrained, runner.data("data", pretrained.info.inputs))
