"""A process that has imported everything and forks commands off itself: real processes, in milliseconds.

Importing torch and Ray takes seconds of CPU, which hundreds of repetitions can't afford. A forked command
is a process like any other, with a session, an environment and a working directory of its own; it runs
``tlsearch.cli.main``. With ``CHAOS_WITHOUT_RAY`` its workers run in the driver's own process, and the model
is verified in a process that is forked, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Forked:
    """A command that was forked off, with what `subprocess.Popen` offers of it."""

    def __init__(self, fork_server: ForkServer, pid: int, folder: Path) -> None:
        self.fork_server, self.pid, self.folder = fork_server, pid, folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, as `subprocess` counts: negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self.fork_server.ask(poll=self.pid)["code"]
        return self.returncode

    def wait(self, seconds: float = 550) -> int:
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < until, f"still running after {seconds} s:\n{self.said()}"
            time.sleep(0.02)
        return code

    def said(self) -> str:
        """What it has printed, to both streams."""
        return (self.folder / f"{self.pid}.txt").read_text(errors="replace")


class ForkServer:
    """The test's end of the process that forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        kept = {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths())}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.fork_server"],
            cwd=ROOT,
            env=kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        assert self.ask(hello=1) == {"hello": 1}

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def run(self, *arguments: object, folder: Path, env: Mapping[str, str]) -> Forked:
        """Fork a command off, in a session of its own."""
        answer = self.ask(run=[str(a) for a in arguments], folder=str(folder), env=dict(env))
        return Forked(self, answer["pid"], folder)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def paths() -> list[str]:
    """Where the plugins of the tests are, and the root."""
    return [str(ROOT), str(ROOT / "tests" / "tiny"), str(ROOT / "tests" / "chaos" / "plugins")]


def _serve() -> None:
    import_all()
    running: dict[int, int | None] = {}
    # Commands print to files; nothing but answers goes to the test.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = request
        if "run" in request:
            pid = os.fork()
            if pid == 0:
                _become(request)
            running[pid] = None
            answer = {"pid": pid}
        elif "poll" in request:
            pid = request["poll"]
            if running[pid] is None:
                done, status = os.waitpid(pid, os.WNOHANG)
                running[pid] = os.waitstatus_to_exitcode(status) if done else None
            answer = {"code": running[pid]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def import_all() -> None:
    """All that a search imports, so that no forked command has to."""
    import importlib

    for name in (
        "tlsearch.search.study",
        "tlsearch.search.measuring",
        "tlsearch.models.bundle",
        "tlsearch.cli.app",
        "tlsearch.cli.live",
        "tlsearch.cli.query",
        "tlsearch.reports.studies",
        "tlsearch.strategies.fine_tune",
        "tlsearch.models.evaluation",
        "alembic.command",
        "alembic.config",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
        "torch._dynamo",
        "torch._inductor.config",
        "torchvision.transforms.v2",
        "PIL.Image",
        "tiny_plugins",
        "chaos_plugins",
    ):
        importlib.import_module(name)
    from tlsearch import registry

    # Counting operations imports more. No backward pass: autograd doesn't bear to be forked.
    registry.backbone("tiny/net", weights="pretrained", image_size=None)


def _become(request: Mapping[str, Any]) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(request["folder"])
        os.environ.update(request["env"])
        handle = os.open(f"{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, of in ((0, nothing), (1, handle), (2, handle)):
            os.dup2(of, number)
        os.closerange(3, 256)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = ["tlsearch", *request["run"]]

        from tests.chaos import inside
        from tests.one_process import one_process, verify_forked
        from tlsearch.cli import main

        inside.install()
        here = one_process(verify=verify_forked)
        try:
            with here if os.environ.get("CHAOS_WITHOUT_RAY") else contextlib.nullcontext():
                main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does with what nobody caught
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
