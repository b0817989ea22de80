"""Commands in one process: trials by the product's `LocalBackend`, verification without a fresh process.

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

import torch

import tlsearch
from tlsearch import gc_tuning, registry
from tlsearch.cli import main
from tlsearch.errors import TlsearchError
from tlsearch.models.model import Model
from tlsearch.search import distill, finish, measuring
from tlsearch.search.measurer import Measurer
from tlsearch.search.verify import scores_of

Scores = dict[str, dict[str, float]]


@contextlib.contextmanager
def one_process(*, verify: Callable[..., Scores]) -> Iterator[None]:
    """Have commands run their trials here, and verify bundles by ``verify`` and not by a fresh process."""
    with (
        mock.patch.dict(os.environ, TLSEARCH_LOCAL="1"),
        mock.patch.object(finish, "verify", verify),
        mock.patch.object(Measurer, "begin"),
    ):
        yield


@contextlib.contextmanager
def searched_folder(folder: Path, study: Mapping[str, Any], data: Path) -> Iterator[Any]:
    """A study of data at a path, run in this process: database, artifacts and cache lie in the folder."""
    with mock.patch.dict(os.environ, TLSEARCH_CACHE=str(folder / "cache")):
        asked = {**study, "data": {**study["data"], "path": str(data)}}
        with one_process(verify=verify_here):
            result = tlsearch.run(asked, db=f"sqlite:///{folder}/s.db", artifacts=folder / "artifacts")
        yield result


def student_of(
    study: str, teacher: Model, place: Path, folder: Path, *, database: str = "s.db", **options: Any
) -> Model:
    """A student of a study whose database and cache lie in ``place``, verified in this process."""
    with (
        mock.patch.dict(os.environ, TLSEARCH_CACHE=str(place / "cache")),
        mock.patch.object(distill, "verify", verify_here),
    ):
        return distill.distill(
            study, teacher, database=f"sqlite:///{place / database}", folder=folder, **options
        )


def _unasked(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def verify_here(
    bundle: Path,
    *,
    stopping: Callable[[], str] = str,
    progress: Callable[[int, int], None] = _unasked,
    **question: Any,
) -> Scores:
    """What `verify.verify` has a fresh process do, in this one."""
    return scores_of(bundle, measuring.answer(_request(bundle, question), progress=progress))


def _request(bundle: Path, question: dict[str, Any]) -> dict[str, Any]:
    return {**question, "bundle": str(bundle), "items": question["items"].to_json()}


def verify_forked(
    bundle: Path,
    *,
    stopping: Callable[[], str] = str,
    progress: Callable[[int, int], None] = _unasked,
    **question: Any,
) -> Scores:
    """The same in a process forked off this one, which a fault can't reach."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = measuring.answer(_request(bundle, question), progress=progress)
        except TlsearchError as error:
            answer = {"error": str(error)}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return scores_of(bundle, json.loads(told or '{"error": "the process died"}'))


def command(*arguments: object, folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command of the command line in this process, its workers too: what it printed, and its exit code.

    Nothing is imported for it that is there already, which is most of what a command costs.
    """
    words = ["tlsearch", *map(str, arguments)]
    printed, said = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, env, clear=True),
        _path(env.get("PYTHONPATH", "")),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(gc_tuning, "spare"),
        one_process(verify=verify_here),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(words, code, printed.getvalue(), said.getvalue())


@contextlib.contextmanager
def _path(given: str) -> Iterator[None]:
    """Let modules and plugins be found in more folders for a while, as PYTHONPATH does for a process."""
    more = [folder for folder in given.split(os.pathsep) if folder and folder not in sys.path]
    if not more:
        yield
        return
    known = set(sys.modules)
    registry.forget()
    with mock.patch.object(sys, "path", [*more, *sys.path]):
        yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(tuple(more)):
            del sys.modules[name]
    registry.forget()


if __name__ == "__main__":
    torch.set_num_threads(1)  # what is forked off a process with threads may wait for them for ever
    with one_process(verify=verify_forked):
        main()
