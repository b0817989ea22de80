"""What the containers run, as plain processes: the very commands of compose.yaml, and people who use them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.cluster.conftest import answers, end_family
from tests.conftest import Place, free_port

pytestmark = pytest.mark.long

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE = YAML(typ="safe", pure=True).load((DOCKER / "compose.yaml").read_text())["services"]
PATIENCE = 150.0
BIN = Path(sys.executable).parent
# What several nodes on one machine need, and containers don't.
APART = (
    "--node-ip-address=127.0.0.1",
    "--object-store-memory=100000000",
    "--min-worker-port=0",
    "--max-worker-port=0",
)


def filled(value: Any, given: Mapping[str, str]) -> Any:
    """A value of the compose file with its variables, as Docker Compose puts them in."""
    if isinstance(value, list):
        return [filled(item, given) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, given) for key, item in value.items()}

    def put_in(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(3)
        if match.group(2) == ":?":
            assert given.get(name), f"{name} must be given"
        return given.get(name) or default

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", put_in, str(value))


@dataclass
class Containers:
    """Services of the compose file as processes, each in a directory of its own."""

    folder: Path
    scratch: str
    base: Mapping[str, str]
    given: Mapping[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, service: str, name: str, *more: str) -> Path:
        """Start a service by its command; its output goes to the answered file."""
        described = filled(COMPOSE[service], self.given)
        place = self.folder / name
        place.mkdir()
        env = {**self.base, **described["environment"], "TLSEARCH_CACHE": str(place / "cache")}
        # Each container has a /tmp of its own.
        more = (*more, f"--temp-dir={self.scratch}/{name}") if described["command"][0] == "ray" else more
        with (place / "log.txt").open("w") as log:
            process = subprocess.Popen(
                [str(BIN / described["command"][0]), *described["command"][1:], *more],
                env=env,
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)
        return place / "log.txt"

    def wait(self, log: Path, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not ready():
            assert self.running[-1].poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.3)


@pytest.fixture
def head_port() -> int:
    return free_port()


@pytest.fixture
def containers(
    environment: dict[str, str], postgres: str, head_port: int, tmp_path: Path
) -> Iterator[Containers]:
    """No service yet; all end with the test."""
    scratch = tempfile.mkdtemp(prefix="tls-ray-", dir="/tmp")  # sockets need short paths
    home = tmp_path / "operator"
    home.mkdir()
    env = {**environment, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    token = tlsearch(env, "cluster", "token")
    assert "export RAY_AUTH_MODE=token" in token.splitlines()
    shown = tlsearch(env, "cluster", "token", "--show").strip()
    assert shown == (home / ".ray" / "auth_token").read_text()
    made = Containers(
        folder=tmp_path,
        scratch=scratch,
        base={**env, "TLSEARCH_ARTIFACTS": str(tmp_path / "artifacts")},
        given={
            "RAY_AUTH_TOKEN": shown,
            "POSTGRES_PASSWORD": "p0stgres-word",
            "TLSEARCH_DB": postgres,
            "DASHBOARD_DB": postgres,
            "HEAD": "127.0.0.1",
            "HEAD_PORT": str(head_port),
            "DASHBOARD_HOST": "127.0.0.1",
            "DASHBOARD_PORT": str(free_port()),
            "STUDIES_PORT": str(free_port()),
            "CPUS_PER_WORKER": "1",
        },
    )
    try:
        yield made
    finally:
        for process in reversed(made.running):
            end_family(process)
        shutil.rmtree(scratch, ignore_errors=True)


def tlsearch(env: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run([BIN / "tlsearch", *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def health_check(env: Mapping[str, str]) -> int:
    """The exit code of the Dockerfile's health check."""
    text = (DOCKER / "Dockerfile").read_text()
    found = re.search(r"HEALTHCHECK .*\\\n\s+CMD (\[.+\])", text)
    assert found
    command = json.loads(found.group(1))
    return subprocess.run([BIN / command[0], *command[1:]], env=env, capture_output=True).returncode


def test_another_user_searches_on_what_the_containers_run(
    containers: Containers, place: Place, postgres: str, head_port: int
) -> None:
    given = containers.given
    address = f"http://127.0.0.1:{given['DASHBOARD_PORT']}"
    apart = (*APART, f"--dashboard-agent-listen-port={free_port()}")
    head = containers.start("head", "head", *apart, f"--ray-client-server-port={free_port()}")
    containers.wait(head, lambda: answers(f"{address}/api/version"))
    operator = {**containers.base, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"127.0.0.1:{head_port}"}
    assert health_check(operator) == 0
    assert health_check({**operator, "RAY_ADDRESS": f"127.0.0.1:{free_port()}"}) != 0
    for name in ("one", "two"):
        log = containers.start(
            "worker", name, *APART, f"--dashboard-agent-listen-port={free_port()}", f"--node-name={name}"
        )
    for name in ("one", "two"):
        log = containers.folder / name / "log.txt"
        containers.wait(log, lambda log=log: "Ray runtime started" in log.read_text())  # type: ignore[misc]

    # Ann has an account of her own, and no token at first.
    home = containers.folder / "ann"
    home.mkdir()
    ann = replace(place, url=postgres, env={**place.env, "HOME": str(home), "TLSEARCH_USER": "ann"})
    ann.env["TLSEARCH_ARTIFACTS"] = str(containers.folder / "artifacts")
    ann.env["TLSEARCH_ADDRESS"] = address
    study = ann.study(
        strategies=["linear_probe"], budget={"trials": 4}, search={"finalists": 1, "confirm_seeds": 0}
    )
    said = ann.run("submit", study, code=2).stderr
    assert "asks for a token, and there is none here" in said
    assert "auth_token" in said
    shutil.copytree(containers.folder / "operator" / ".ray", home / ".ray")
    done = ann.run("submit", study, "--follow", seconds=300)
    assert "verify the winner" in done.stderr
    assert "SUCCEEDED" in done.stderr
    assert given["POSTGRES_PASSWORD"] not in done.stderr
    assert given["RAY_AUTH_TOKEN"] not in done.stderr
    (listed,) = ann.ask("studies")
    assert (listed["owner"], listed["state"], listed["counts"]["COMPLETE"]) == ("ann", "COMPLETE", 4)
    assert listed["job"].startswith("tlsearch-tiny-")
    assert Path(ann.ask("best", "tiny")["model"]["uri"]).is_dir()
    image = next((place.images / "disc").glob("*.png"))
    assert "disc" in ann.run("predict", "tiny", image).stdout

    log = containers.start("dashboard", "dashboard")
    _, *check = filled(COMPOSE["dashboard"]["healthcheck"]["test"], given)
    containers.wait(log, lambda: subprocess.run(check, env=operator, capture_output=True).returncode == 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{given['STUDIES_PORT']}/api/studies") as answer:
        assert "tiny" in answer.read().decode()
