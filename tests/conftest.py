"""Real searches through the command line: three easy classes, real weights, a database of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from ruamel.yaml import YAML

from tests.one_process import command
from tlsearch.database.store import Store
from tlsearch.errors import TlsearchError

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

CLASSES = ("disc", "frame", "stripes")
STUDY = {
    "study": "tiny",
    "backbones": ["efficientnet_lite/lite0"],
    "strategies": ["linear_probe", "feature_copy", "fine_tune"],
    "budget": {"trials": 6, "epochs": 2},
    "search": {"finalists": 2, "confirm_seeds": 1, "refit": False},
    "resources": {"concurrent": 1},  # a second worker would cost more to start than it does
}


def draw(name: str, rng: np.random.Generator, size: int = 32) -> Image.Image:
    """An image of a class: a figure of any colour and place on a noisy ground."""
    y, x = np.mgrid[:size, :size]
    center, radius = rng.integers(12, 20, 2), rng.integers(6, 11)
    if name == "disc":
        mask = (y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2
    elif name == "frame":
        far = np.maximum(abs(y - center[0]), abs(x - center[1]))
        mask = (far < radius) & (far > radius - 3)
    else:
        mask = (x + rng.integers(0, 8)) % 8 < 3
    ground, figure = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
    pixels = np.where(mask[..., None], figure, ground) + rng.normal(0, 25, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_folder(folder: Path, *, classes: tuple[str, ...] = CLASSES, each: int = 40, seed: int = 0) -> Path:
    """A folder of class folders."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            draw(name, rng).save(folder / name / f"{number:03d}.png")
    return folder


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@dataclass
class Place:
    """A working directory with a database of its own, where commands run as processes."""

    folder: Path
    images: Path
    env: dict[str, str]
    url: str = ""
    python: str = sys.executable
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.url = self.url or f"sqlite:///{self.folder / 'studies.db'}"
        self.env = {**self.env, "TLSEARCH_DB": self.url}
        self.env.pop("TLSEARCH_ARTIFACTS", None)

    @property
    def database(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def artifacts(self) -> Path:
        return self.database.parent / "tlsearch-artifacts"

    def study(self, **changes: Any) -> Path:
        """A study file; sections are merged with those of the tiny study, None takes a key out."""
        document: dict[str, Any] = {
            **STUDY,
            "data": {"source": "folder", "path": str(self.images), "image_size": 32},
        }
        for key, value in changes.items():
            known = document.get(key)
            document[key] = (
                {**known, **value} if isinstance(value, dict) and isinstance(known, dict) else value
            )
        path = self.folder / f"{document.get('study', 'study')}.yaml"
        with path.open("w") as file:
            YAML().dump({key: value for key, value in document.items() if value is not None}, file)
        return path

    def start(self, *arguments: object, **env: str) -> subprocess.Popen[str]:
        """A command as a process that leads a group of its own."""
        process = subprocess.Popen(
            [self.python, "-m", "tlsearch", *map(str, arguments)],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.begun.append(process)
        return process

    def run(
        self, *arguments: object, code: int = 0, seconds: float = 550, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """A command from start to end, with the exit code that is expected of it."""
        process = self.start(*arguments, **env)
        output, errors = process.communicate(timeout=seconds)
        assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
        assert "Traceback" not in errors, errors
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def here(self, *arguments: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """The same in this process and without Ray, for what neither a new process nor Ray is asked of."""
        done = command(*arguments, folder=self.folder, env={**self.env, **env})
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def refused(self, *arguments: object, code: int = 2, **env: str) -> str:
        """What a command says that is to be refused."""
        return self.here(*arguments, code=code, **env).stderr

    def ask(self, *arguments: object) -> Any:
        """What a command prints with --json."""
        return json.loads(self.here(*arguments, "--json").stdout)

    def modules(self, *arguments: str) -> set[str]:
        """Top-level modules that a command has imported when it ends."""
        code = (
            "import atexit, sys; sys.argv = ['tlsearch', *sys.argv[1:]]\n"
            "tops = lambda: {name.partition('.')[0] for name in sys.modules}\n"
            "atexit.register(lambda: print(*tops(), file=sys.stderr))\n"
            "from tlsearch.cli import main; main()"
        )
        done = subprocess.run(
            [self.python, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=self.folder,
            env=self.env,
        )
        return set(done.stderr.splitlines()[-1].split())

    def fastest(self, *arguments: str) -> float:
        """Seconds that a command takes: of several tries, since other processes take their share."""
        took = []
        for _ in range(4):
            began = time.monotonic()
            self.run(*arguments)
            took.append(time.monotonic() - began)
        return min(took)

    def store(self) -> Store:
        return Store.open(self.url)

    def counts(self) -> dict[str, int]:
        """Trials of the tiny study by state; none while there is no study."""
        if not self.database.exists():
            return {}
        try:
            with self.store() as store:
                return {state.value: count for state, count in store.counts("tiny").items()}
        except TlsearchError:  # the file is there before its tables are
            return {}

    def wait_for(
        self,
        condition: Callable[[dict[str, int]], bool],
        process: subprocess.Popen[str],
        seconds: float = 550,
    ) -> dict[str, int]:
        """Wait until the trials of the tiny study, counted by state, are as wanted."""
        until = time.monotonic() + seconds
        counts: dict[str, int] = {}
        while time.monotonic() < until:
            assert process.poll() is None, process.communicate()
            counts = self.counts()
            if counts and condition(counts):
                return counts
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s in vain: {counts}")

    def end_all(self) -> None:
        """Leave no process behind."""
        for process in self.begun:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: handed out last, they would keep one process busy at the end."""
    marks = ("slow", "long", "chaos")
    slow = {item.path for item in items if any(map(item.get_closest_marker, marks))}
    items.sort(key=lambda item: item.path not in slow)  # stable: within a file nothing moves


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images each of three classes."""
    return draw_folder(tmp_path_factory.mktemp("images") / "shapes")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """This environment with a cache of the test session's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TLSEARCH_", "RAY_"))}
    return {**kept, "TLSEARCH_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture
def place(tmp_path: Path, images: Path, environment: dict[str, str]) -> Iterator[Place]:
    """An empty working directory."""
    here = Place(tmp_path / "work", images, environment)
    yield here
    here.end_all()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, images: Path, environment: dict[str, str]
) -> Iterator[Place]:
    """A place where the tiny study has been run; ``first.json`` and ``first.txt`` are what it printed."""
    here = Place(tmp_path_factory.mktemp("finished"), images, environment)
    done = here.run("run", here.study(), "--json")
    (here.folder / "first.json").write_text(done.stdout)
    (here.folder / "first.txt").write_text(done.stderr)
    yield here
    here.end_all()


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium without a window; its event loop runs in this thread until the module's end."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()
