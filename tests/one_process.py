"""The search without Ray: turns are taken in the driver's own process; all else is the product's.

For faults that hit the driver, the database or the disk, and for benchmarks that compare strategies and not
processes. Workers that die are tested through Ray.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from tlsearch import rare_gc
from tlsearch.cli import main
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

    begun: list[bool] = []

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
            start=lambda **_: begun.append(True),
            started=lambda: bool(begun),
            stop=begun.clear,
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


def command(*arguments: object, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command of the command line in this process, its workers too: what it printed, and its exit code.

    Nothing is imported for it that is there already, which is most of what a command costs.
    """
    words = ["tlsearch", *map(str, arguments)]
    printed, said = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.dict(os.environ, env, clear=True),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(rare_gc, "spare"),
        without_ray(slots=1, verify=verify_here),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(words, code, printed.getvalue(), said.getvalue())
