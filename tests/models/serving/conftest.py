"""A tiny model, and real servers of it on free ports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import uvicorn
from tiny_bench import BACKBONE

from tlsearch import registry
from tlsearch.contracts import Backbone, TargetSpec
from tlsearch.models import bundle
from tlsearch.models.model import Model
from tlsearch.models.serving.limits import Limits, own_hosts
from tlsearch.models.serving.server import configured, create_app
from tlsearch.testing import classes

CLASSES = ["ant", "bee", "cat"]
NUMBERS = {"mean": [10.0], "scale": [2.0], "cuts": [[]], "levels": [[]], "low": [5.0], "high": [15.0]}
TASKS = {
    "regression": (["age"], NUMBERS, {"margin": [1.5], "coverage": 0.9}),
    "multilabel": (["red", "small", "white"], {"share": [0.5] * 3}, {"thresholds": [0.4, 0.5, 0.6]}),
}
"""Names, facts and calibration of models of other tasks."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    pretrained = registry.backbone(BACKBONE, weights="pretrained", image_size=None)
    network = Backbone(pretrained, *classes(3))
    plugin = registry.strategy("feature_copy")
    params = {"learner": "lda"}
    plugin.restore(network, params)
    network.release_source()
    with torch.no_grad():
        network.head[1].weight.copy_(20 * torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path_factory.mktemp("served") / "bundle"
    manifest = {
        "classes": CLASSES,
        "image_size": None,
        "strategy": "feature_copy",
        "params": params,
        "metrics": {"val": {"accuracy": 0.5}},
        "provenance": {"study": "insects", "trial": 3},
        "calibration": {"temperature": 2.0},
    }
    bundle.write(folder, network=network.eval(), manifest=manifest)
    return bundle.load(folder)


@pytest.fixture(scope="module", params=TASKS)
def served(request, tmp_path_factory) -> Model:
    """A model of numbers, then one of sets of labels."""
    names, facts, calibration = TASKS[request.param]
    pretrained = registry.backbone(BACKBONE, weights="pretrained", image_size=None)
    network = Backbone(pretrained, registry.task(request.param), TargetSpec(tuple(names), facts))
    registry.strategy("linear_probe").restore(network, {})
    with torch.no_grad():
        network.head.weight.copy_(
            20 * torch.randn(len(names), 16, generator=torch.Generator().manual_seed(0))
        )
    folder = tmp_path_factory.mktemp("served") / request.param
    manifest = {
        "task": request.param,
        "classes": names,
        "facts": facts,
        "image_size": None,
        "strategy": "linear_probe",
        "params": {},
        "metrics": {},
        "provenance": {"study": request.param},
        "calibration": calibration,
    }
    bundle.write(folder, network=network.eval(), manifest=manifest)
    return bundle.load(folder)


Start = Callable[..., str]


@pytest.fixture(scope="module")
def start(model) -> Iterator[Start]:
    """Starts a server and returns its address."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(
        *, token: str | None = None, served: Any = model, kind: type[Limits] = Limits, **limits: float
    ) -> str:
        own = kind(**limits)
        app = create_app(served, limits=own, token=token, hosts=own_hosts("127.0.0.1"))
        server = uvicorn.Server(configured(app, own, port=0))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
