"""The tiny study and its outside budget: where a fault is going to happen, and what was there before it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from tests.chaos.fork_server import ROOT, Forked, ForkServer, paths
from tlsearch.database.store import Store
from tlsearch.errors import TlsearchError

EPOCHS = 4
TRIALS = 6
STUDY: Mapping[str, Any] = {
    "study": "tiny",
    "data": {"source": "tiny_colours"},
    "backbones": ["tiny/net"],
    "strategies": ["chaos_paced"],
    "budget": {"trials": TRIALS, "epochs": EPOCHS},
    "search": {
        "pruner": "none",
        "sampler": "random",
        "finalists": 2,
        "confirm_seeds": 0,
        "views": 2,
        "refit": False,
    },
    "resources": {"concurrent": 2},
}

FRESH: Mapping[str, str] = {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "chaos" / "site"), *paths()[1:]]),
    "CHAOS_ROOT": str(ROOT),
}
"""What a fresh interpreter needs to know these tests' plugins and to keep the budget."""


@dataclass
class Scene:
    """A working directory with a database, a study file and a budget of what the database acknowledged."""

    folder: Path
    fork_server: ForkServer
    environment: Mapping[str, str]
    url: str = ""
    begun: list[Forked | subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.url = self.url or f"sqlite:///{self.folder / 'studies.db'}"
        (self.folder / "temporary").mkdir(exist_ok=True)

    @property
    def budget(self) -> Path:
        return self.folder / "budget.jsonl"

    @property
    def landed(self) -> Path:
        return self.folder / "landed.jsonl"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def env(self) -> dict[str, str]:
        """What a search gets, whichever way it is started."""
        return {
            "TLSEARCH_DB": self.url,
            "TLSEARCH_ARTIFACTS": str(self.artifacts),
            "CHAOS_LEDGER": str(self.budget),
            "CHAOS_LANDED": str(self.landed),
            "CHAOS_FILES": str(self.artifacts),
            "TMPDIR": str(self.folder / "temporary"),
        }

    def study(self, name: str = "tiny", **changes: Any) -> Path:
        """A study file; sections are merged with those of the tiny study."""
        document: dict[str, Any] = {**STUDY, "study": name}
        for key, value in changes.items():
            known = document.get(key)
            document[key] = {**known, **value} if isinstance(known, dict) else value
        path = self.folder / f"{name}.yaml"
        with path.open("w") as file:
            YAML().dump(document, file)
        return path

    def start(self, *arguments: object, **env: object) -> Forked:
        """A command without Ray, its workers in the driver's process."""
        given = {**self.env, "CHAOS_WITHOUT_RAY": "1", **{name: str(value) for name, value in env.items()}}
        process = self.fork_server.run(*arguments, folder=self.folder, env=given)
        self.begun.append(process)
        return process

    def run(self, *arguments: object, code: int = 0, seconds: float = 550, **env: object) -> str:
        """The same from start to end; answers what was printed."""
        process = self.start(*arguments, **env)
        returned = process.wait(seconds)
        assert returned == code, f"exit code {returned}, not {code}:\n{process.said()}"
        assert "Traceback" not in process.said(), process.said()
        return process.said()

    def start_on_ray(self, *arguments: object, **env: object) -> subprocess.Popen[str]:
        """A command as a user starts it: a fresh interpreter, Ray, workers in processes of their own."""
        given = {**self.environment, **self.env, **{name: str(value) for name, value in env.items()}}
        # Ray's sockets don't bear the long paths of a test's folder.
        given.update(FRESH, OMP_NUM_THREADS="1", TMPDIR="/tmp")
        number = len(self.begun)
        with (self.folder / f"out-{number}.txt").open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tlsearch", *map(str, arguments)],
                cwd=self.folder,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        process.said = (self.folder / f"out-{number}.txt").read_text  # type: ignore[attr-defined]
        self.begun.append(process)
        return process

    def acknowledged(self, what: str | None = None, study: str = "tiny") -> list[dict[str, Any]]:
        """The budget, without a last line that was cut off."""
        if not self.budget.exists():
            return []
        lines = [line for line in self.budget.read_text().splitlines(keepends=True) if line.endswith("\n")]
        entries = [json.loads(line) for line in lines]
        return [e for e in entries if e["study"] == study and what in (None, e["what"])]

    def landings(self) -> list[dict[str, Any]]:
        """Faults that came from within."""
        if not self.landed.exists():
            return []
        return [json.loads(line) for line in self.landed.read_text().splitlines()]

    def store(self) -> Store:
        return Store.open(self.url)

    def wait_for(self, reached: Callable[[], object], process: Any, seconds: float = 550) -> None:
        """Wait for something that the search does."""
        until = time.monotonic() + seconds
        while not reached():
            assert process.poll() is None, f"ended with {process.poll()} too soon:\n{process.said()}"
            assert time.monotonic() < until, f"waited {seconds} s in vain:\n{process.said()}"
            time.sleep(0.02)

    def counts(self, study: str = "tiny") -> dict[str, int]:
        """Trials by state; empty before there is a study."""
        try:
            with self.store() as store:
                return {state.value: count for state, count in store.counts(study).items()}
        except TlsearchError:  # the file is there before its tables are
            return {}

    def processes(self) -> list[psutil.Process]:
        """Whatever runs for this place: commands, and what has its database in the environment."""
        found = {}
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("TLSEARCH_DB") == self.url
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process
            except psutil.Error:
                continue
        for command in self.begun:
            if command.poll() is None:
                found[command.pid] = psutil.Process(command.pid)
        return list(found.values())

    def workers(self) -> list[psutil.Process]:
        """Ray's processes that train."""
        return [p for p in self.processes() if _trains(" ".join(_words(p)))]

    def end_all(self) -> None:
        """Leave no process behind."""
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        for command in self.begun:
            command.wait(30)


def _trains(title: str) -> bool:
    """Whether a process is one of Ray's that runs our trainable, by the title that Ray gives it."""
    return title.startswith("ray::") and ("TrialActor" in title or "Trainable" in title)


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def temporary(folder: Path) -> Iterator[Path]:
    """Files that only something unfinished has."""
    for path in folder.rglob("*"):
        if path.name.startswith(".") or path.suffix in (".draft", ".tmp") or path.name.endswith("-journal"):
            yield path
