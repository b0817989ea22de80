"""A node of a Ray cluster taken away, with all that runs on it, as a power cut does."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import pytest

from tests.chaos.conftest import SHARE, Fault
from tests.chaos.invariants import check_all
from tests.chaos.scene import FRESH, TRIALS, Scene
from tests.cluster.conftest import RayCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(SHARE < 1, reason="tests/cluster/test_nodes.py does it once: make chaos runs it"),
]


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head without CPUs, whose workers have one each and know the plugins of these tests."""
    planned = RayCluster.planned(tmp_path_factory.mktemp("cluster"), {**environment, **FRESH})
    with contextlib.closing(planned) as one:
        one.start_head()
        yield one


names = (f"w{number}" for number in itertools.count(1))


@pytest.mark.fault("a node taken away", times=10)
def test_another_node_goes_on(cluster: RayCluster, scene: Scene, fault: Fault, repetition: int) -> None:
    while len(cluster.nodes) < 3:
        name = next(names)
        cluster.add(name)
        cluster.wait_for(name)
    token = {name: value for name, value in cluster.env.items() if name.startswith("RAY_AUTH_")}
    study = scene.study(budget={"trials": TRIALS, "epochs": 8})
    driver = scene.start_on_ray("run", study, "--address", cluster.gcs, **token)
    wanted = fault.random.randint(1, 24)
    scene.wait_for(lambda: len(scene.acknowledged("record")) >= wanted, driver, 240)
    time.sleep(fault.random.uniform(0.0, 0.6))
    victim = fault.random.choice([name for name in cluster.nodes if name != "head"])
    cluster.kill(victim)
    fault.landed(f"{victim} after {wanted} records")
    assert driver.wait(300) == 0, driver.said()  # type: ignore[attr-defined]
    assert "Traceback" not in driver.said()  # type: ignore[attr-defined]
    check_all(scene, count=TRIALS)
