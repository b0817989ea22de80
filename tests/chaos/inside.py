"""What a test plants inside a process of a search: a budget of what was acknowledged, and exact moments.

Nothing of this is in the product. ``CHAOS_LEDGER`` is a file outside, to which every acknowledgement of the
database is appended and fsynced. ``CHAOS_STOP=STEP:N`` kills the process, with SIGKILL and from within, at
the N-th time that it comes to a step; ``CHAOS_LANDED`` is the file that proves that it did. The names:

========================  ==============================================================================
``write``                 half of a file's bytes are there
``fsync``, ``fsynced``    before and after a file is flushed
``rename``, ``renamed``   before and after it gets its name
``commit``, ``committed``  before and after the database commits a write
``acknowledge``, ``acknowledged``  the write has come back to the driver; the driver's next step is due
========================  ==============================================================================
"""

from __future__ import annotations

import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_passed: dict[str, int] = {}


def install() -> None:
    """Plant what the environment asks for, now or as soon as the modules are imported."""
    _passed.clear()
    planted: dict[str, Callable[[ModuleType], None]] = {}
    if os.environ.get("CHAOS_LEDGER"):
        planted["tlsearch.database.store"] = _keep_a_ledger
    if os.environ.get("CHAOS_STOP"):
        _stop_at_files()
        planted["sqlalchemy.engine.default"] = _stop_at_commits
    if os.environ.get("CHAOS_LEASE"):
        planted["tlsearch.search.lease_heartbeat"] = _shorten_the_lease
    if os.environ.get("CHAOS_PATIENCE"):
        planted["tlsearch.database.engine"] = _shorten_the_patience
    if os.environ.get("CHAOS_ODD"):
        planted["tlsearch.training.trial"] = _measure_oddly
    for name in [name for name in planted if name in sys.modules]:
        planted.pop(name)(sys.modules[name])
    if planted:
        sys.meta_path.insert(0, _AfterImport(planted))


def note(path: str, **told: Any) -> None:
    """Append a line to a file and flush it to the disk."""
    line = json.dumps({"pid": os.getpid(), "time": time.time(), **told}) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
        _fsync(handle)
    finally:
        os.close(handle)


_fsync, _replace = os.fsync, os.replace


def passing(step: str, before: Callable[[], object] = bool) -> None:
    """Die here if this is the step and the time that was asked for."""
    wanted, _, count = os.environ.get("CHAOS_STOP", ":0").partition(":")
    if step != wanted:
        return
    _passed[step] = _passed.get(step, 0) + 1
    if _passed[step] == int(count):
        before()
        note(os.environ["CHAOS_LANDED"], step=step, count=int(count))
        os.kill(os.getpid(), signal.SIGKILL)


def _keep_a_ledger(module: ModuleType) -> None:
    store: Any = module.Store
    budget = os.environ["CHAOS_LEDGER"]

    def acknowledged(name: str, tell: Callable[..., list[dict[str, Any]]]) -> None:
        real = getattr(store, name)

        def write(self: Any, lease: Any, *given: Any, **options: Any) -> Any:
            answer = real(self, lease, *given, **options)
            passing("acknowledge")
            for told in tell(answer, *given, **options):
                note(budget, what=name, study=lease.study, token=lease.token, **told)
            passing("acknowledged")
            return answer

        setattr(store, name, write)

    def started(_: Any, points: Sequence[Any], **__: Any) -> list[dict[str, Any]]:
        return [{"number": point.number, "attempt": point.attempt, "role": point.role} for point in points]

    def recorded(refused: Sequence[Any], results: Sequence[Any], **__: Any) -> list[dict[str, Any]]:
        return [
            {
                "number": result.number,
                "attempt": result.attempt,
                "epoch": result.epoch,
                "value": result.value,
                "state": result.outcome.state.value if result.outcome else None,
                "outcome": result.outcome.value if result.outcome else None,
                "refused": result in refused,
            }
            for result in results
        ]

    acknowledged("start_trials", started)
    acknowledged("record", recorded)
    acknowledged("pin_model", lambda _, model, **__: [{"number": model.trial, "sha256": model.sha256}])
    acknowledged("release", lambda _, **told: [{"state": told["state"].value}])


def _stop_at_files() -> None:
    place = os.environ["CHAOS_FILES"]

    def fsync(handle: Any) -> None:
        path = os.readlink(f"/proc/self/fd/{handle if isinstance(handle, int) else handle.fileno()}")
        ours = path.startswith(place) and os.path.isfile(path)
        if ours:
            passing("write", lambda: os.truncate(path, os.path.getsize(path) // 2))
            passing("fsync")
        _fsync(handle)
        if ours:
            passing("fsynced")

    def replace(source: Any, target: Any, **options: Any) -> None:
        ours = str(target).startswith(place)
        if ours:
            passing("rename")
        _replace(source, target, **options)
        if ours:
            passing("renamed")

    os.fsync, os.replace = fsync, replace  # type: ignore[assignment]


def _stop_at_commits(module: ModuleType) -> None:
    dialect: Any = module.DefaultDialect
    real = dialect.do_commit

    def commit(self: Any, connection: Any) -> None:
        wrote = _wrote(connection)
        if wrote:
            passing("commit")
        real(self, connection)
        if wrote:
            passing("committed")

    dialect.do_commit = commit


def _wrote(connection: Any) -> bool:
    changes = getattr(connection, "total_changes", None)  # SQLite's own count, of this connection
    return changes is None or changes > 0


def _shorten_the_lease(module: ModuleType) -> None:
    seconds = float(os.environ["CHAOS_LEASE"])
    module.LEASE_SECONDS, module.RENEW_SECONDS = seconds, seconds / 6  # type: ignore[attr-defined]


def _shorten_the_patience(module: ModuleType) -> None:
    seconds = float(os.environ["CHAOS_PATIENCE"])
    database: Any = module.Database
    real = database.__init__

    def init(self: Any, *given: Any, **options: Any) -> None:
        real(self, *given, **{**options, "patience": seconds})

    database.__init__ = init


def _measure_oddly(module: ModuleType) -> None:
    """The study's metric of every second measured trial isn't a number, as a broken metric would have it."""
    kind = os.environ["CHAOS_ODD"]
    bench: Any = module.TrialRunner
    real = bench.conclude

    def conclude(self: Any, point: Any, *given: Any, scores: Any, **options: Any) -> Any:
        metric = self.metric
        if point.number % 2:
            scores = {name: value for name, value in scores.items() if kind != "missing" or name != metric}
            if kind != "missing":
                scores[metric] = None if kind == "none" else float(kind)
            note(os.environ["CHAOS_LANDED"], number=point.number, kind=kind)
        return real(self, point, *given, scores=scores, **options)

    turn = bench.run

    def run(self: Any, points: Any, **options: Any) -> Any:
        metric = self.metric
        for results in turn(self, points, **options):
            yield [_oddly(result, kind, metric) for result in results]

    bench.conclude, bench.run = conclude, run


def _oddly(result: Any, kind: str, metric: str) -> Any:
    """The same of an epoch in the midst of a trial."""
    if result.number % 2 == 0 or result.outcome is not None:
        return result
    metrics = {name: value for name, value in result.metrics.items() if name != metric}
    if kind in ("none", "missing"):
        return dataclasses.replace(result, value=None, metrics=metrics)
    return dataclasses.replace(result, value=float(kind), metrics={**metrics, metric: float(kind)})


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module once that has been imported."""

    def __init__(self, planted: dict[str, Callable[[ModuleType], None]]) -> None:
        self.planted = planted

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.planted:
            return None
        plant = self.planted.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            plant(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
