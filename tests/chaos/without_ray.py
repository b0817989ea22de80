"""The search without Ray: workers take turns in the driver's own process; all else is the product's.

For faults that hit the driver, the database or the disk. Workers that die are tested through Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def install() -> None:
    """Put it in the place of Ray Tune, and a forked process in that of the process that verifies."""
    from tlsearch.search import finish, ray_cluster, ray_tune

    ray_cluster.start_early = lambda **_: None  # type: ignore[assignment]
    ray_cluster.start = lambda **_: None  # type: ignore[assignment]
    ray_cluster.started = lambda: False
    ray_cluster.stop = lambda: None
    ray_cluster.slots = lambda **_: 2  # type: ignore[assignment]
    ray_cluster.has_gpus = lambda: False
    ray_tune.run = run  # type: ignore[assignment]
    finish.verify = verify  # type: ignore[assignment]


def run(desk: Any, *, assignment: Any, slots: int, deadline: float, **_: Any) -> None:
    """As `tlsearch.search.ray_tune.run` does: turns until there are none left or the desk says stop."""
    from tlsearch.training.trial import Workbench

    bench = Workbench(assignment)
    turns: list[tuple[list[Any], Iterator[list[Any]]]] = []
    more = True
    while not desk.must_stop():
        while more and len(turns) < slots:
            points = desk.next_turn()
            more = points is not None
            if not points:
                break
            turns.append((points, bench.run(points, deadline=deadline)))
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


def verify(
    bundle: Path,
    *,
    spec: Mapping[str, Any],
    metric: str,
    value: float,
    stopping: Callable[[], str] = str,
    **more: Any,
) -> dict[str, dict[str, float]]:
    """As `tlsearch.search.verify.verify` does, in a process forked off this one."""
    from tlsearch.errors import TlsearchError, VerificationError
    from tlsearch.search import verify as real

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = real._answer(
                {"bundle": str(bundle), "spec": spec, "metric": metric, "value": value, **more}
            )
        except TlsearchError as error:
            answer = {"error": str(error)}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    answer = json.loads(told or '{"error": "the process died"}')
    if "error" in answer:
        raise VerificationError(f"The model of {bundle} can't be verified: {answer['error']}")
    return dict(answer["scores"])
