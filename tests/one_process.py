"""The search without Ray: turns are taken in the driver's own process; all else is the product's.

For faults that hit the driver, the database or the disk, and for benchmarks that compare strategies and not
processes. Workers that die are tested through Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tlsearch.contracts import Pretrained
from tlsearch.errors import TlsearchError
from tlsearch.search import finish, ray_cluster, ray_tune
from tlsearch.search import verify as product
from tlsearch.training.trial import Assignment, Workbench

Scores = dict[str, dict[str, float]]


@contextlib.contextmanager
def without_ray(
    *, slots: int, verify: Callable[..., Scores], loaded: dict[str, Pretrained] | None = None
) -> Iterator[None]:
    """Put turns in this process in the place of Ray Tune.

    Args:
        slots: turns that are under way at a time, an epoch of each after the other.
        verify: in the place of the process that verifies a bundle.
        loaded: backbones that stay warm from one study to the next.
    """

    def run(desk: ray_tune.Desk, *, assignment: Assignment, slots: int, **_: Any) -> None:
        bench = Workbench(assignment, _backbones={} if loaded is None else loaded)
        turns: list[tuple[Any, Iterator[list[Any]]]] = []
        more = True
        while not desk.must_stop():
            while more and len(turns) < slots:
                points = desk.next_turn()
                more = points is not None
                if not points:
                    break
                turns.append((points, bench.run(points, deadline=desk.deadline)))
            if not turns:
                return
            for turn in list(turns):
                results = next(turn[1], None)
                if results is None:
                    turns.remove(turn)
                    desk.ended(turn[0], None)
                else:
                    desk.record(results)
        for points, _turn in turns:
            desk.ended(points, None)

    with (
        mock.patch.multiple(
            ray_cluster,
            start_early=lambda: None,
            start=lambda **_: None,
            started=lambda: True,
            stop=lambda: None,
            slots=lambda **_: slots,
            has_gpus=lambda: False,
        ),
        mock.patch.object(ray_tune, "run", run),
        mock.patch.object(finish, "verify", verify),
    ):
        yield


def verify_here(bundle: Path, *, stopping: Callable[[], str] = str, **question: Any) -> Scores:
    """What `verify.verify` has a fresh process do, in this one."""
    return product._scores(bundle, product._answer(_request(bundle, question)))


def _request(bundle: Path, question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "bundle": str(bundle), "items": question["items"].to_json()}


def verify_forked(bundle: Path, *, stopping: Callable[[], str] = str, **question: Any) -> Scores:
    """The same in a process forked off this one, which a fault can't reach."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = product._answer(_request(bundle, question))
        except TlsearchError as error:
            answer = {"error": str(error)}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return product._scores(bundle, json.loads(told or '{"error": "the process died"}'))
