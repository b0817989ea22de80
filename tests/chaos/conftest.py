"""Repetitions, the check that a fault landed, and the tally of what came of it."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import results
from tests.chaos.fork_server import ForkServer, paths
from tests.chaos.scene import Scene
from tests.database.conftest import run_postgresql

SHARE = float(os.environ.get("TLSEARCH_CHAOS", "0.1"))
"""Share of the repetitions that run, at least one of each: a tenth unless told; 1 under ``make chaos``.

All but the first of each are long: ``make test-slow`` leaves them to ``make test-all``.
"""
SEED = int(os.environ.get("TLSEARCH_CHAOS_SEED", "0"))

for path in paths()[1:]:
    if path not in sys.path:
        sys.path.append(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked, so that it can be had or left."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a fault runs as often as its marker and the share say."""
    marker = metafunc.definition.get_closest_marker("fault")
    if marker is not None and "repetition" in metafunc.fixturenames:
        at_once = marker.kwargs.get("at_once", 1)
        times = max(1, round(marker.kwargs["times"] * SHARE / at_once))
        again = [pytest.param(number, marks=pytest.mark.long) for number in range(1, times)]
        metafunc.parametrize("repetition", [0, *again])


class Fault:
    """A fault that is about to happen: its random numbers, and whether it landed."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.random = random.Random(seed)
        self.count = 0

    def landed(self, moment: str, times: int = 1) -> None:
        """Say that it really happened, and when."""
        self.count += times
        print(f"{self.name}, seed {self.seed}: {moment}")


@pytest.fixture
def fault(request: pytest.FixtureRequest, record_property: Any) -> Iterator[Fault]:
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a test of a fault names it"
    called = getattr(request.node, "callspec", None)
    name = marker.args[0].format(**(called.params if called is not None else {}))
    it = Fault(name, zlib.crc32(f"{SEED} {request.node.name}".encode()))
    began = time.monotonic()
    yield it
    record_property("fault", json.dumps([name, it.count, time.monotonic() - began]))
    assert it.count, "the fault didn't land"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This environment with a cache of the test session's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TLSEARCH_", "RAY_"))}
    return {**kept, "TLSEARCH_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def fork_server(environment: dict[str, str]) -> Iterator[ForkServer]:
    """The process that searches are forked off."""
    one = ForkServer(environment)
    yield one
    one.close()


@pytest.fixture
def scene(tmp_path: Path, fork_server: ForkServer, environment: dict[str, str]) -> Iterator[Scene]:
    """An empty place with a SQLite database to be."""
    here = Scene(tmp_path / "scene", fork_server, environment)
    yield here
    here.end_all()


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL server of this test's own, which may be stopped."""
    with run_postgresql() as running:
        yield running


@pytest.fixture
def scene_on_a_server(
    server: Any, tmp_path: Path, fork_server: ForkServer, environment: Any
) -> Iterator[Scene]:
    """An empty place with a PostgreSQL database."""
    here = Scene(tmp_path / "scene", fork_server, environment, url=server.get_uri())
    yield here
    here.end_all()


_reports: list[results.Repetition] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather what became of every repetition; under xdist this runs in the process that sees all."""
    told = dict(report.user_properties).get("fault")
    if report.when == "teardown" and told is not None:
        name, landed, seconds = json.loads(str(told))
        failed = report.failed or report.nodeid in _failed
        _reports.append(results.Repetition(name, landed, failed, seconds))
    elif report.when == "call" and report.failed:
        _failed.add(report.nodeid)


_failed: set[str] = set()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table, and under ``make chaos`` the file that the documentation's table is made of."""
    if not _reports:
        return
    tally = results.tally(_reports)
    terminalreporter.section("faults")
    terminalreporter.write_line(results.table(tally))
    if "TLSEARCH_CHAOS_RESULTS" in os.environ:
        results.store(Path(os.environ["TLSEARCH_CHAOS_RESULTS"]), tally, seed=SEED)
