"""Searches as Ray jobs: submit, list, follow, stop. The only file that talks to Ray's job server.

Whoever may submit may run code on the cluster. So a token is used wherever there is one, and anything but a
loopback address is refused without.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tlsearch.errors import InputError, UnknownNameError, WorkError
from tlsearch.spec import StudySpec

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
PREFIX = "tlsearch-"
POLL_SECONDS = 1.0
STOP_SECONDS = 60.0
GRACE_SECONDS = 30
"""What a stopped job has to end its trials and give its study back; Ray's own 3 seconds are too few."""

TOKEN_HINT = (
    "Copy the cluster's ~/.ray/auth_token here, name its file in RAY_AUTH_TOKEN_PATH, or put it into "
    "RAY_AUTH_TOKEN."
)


@dataclass(frozen=True, slots=True)
class Job:
    """A search on a cluster. ``new`` tells whether the call that returned it submitted it."""

    id: str
    study: str
    status: str
    message: str
    new: bool = False


def submit(spec: StudySpec, *, address: str, database: str, artifacts: Path) -> Job:
    """Hand a study to a cluster; one that is running there already is found, not submitted again.

    Args:
        spec: the study.
        address: of the cluster's dashboard, such as ``http://127.0.0.1:8265``.
        database: URL of the study database as the cluster's nodes reach it.
        artifacts: folder for weights and models as the cluster's nodes reach it.

    Raises:
        InputError: the address or the database can't be used this way.
        WorkError: the cluster can't be reached.
    """
    url = _reachable(database, address)
    client = _client(address)
    document = spec.to_json()
    digest = hashlib.sha256(json.dumps([document, url], sort_keys=True).encode()).hexdigest()[:10]
    stem = f"{PREFIX}{spec.study}-{digest}"
    earlier = [job for job in jobs(address=address) if job.id.startswith(stem)]
    for job in earlier:
        if job.status not in ENDED:
            return job
    identity = f"{stem}-{len(earlier) + 1}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.json").write_text(json.dumps(document, indent=2))
        try:
            client.submit_job(
                # JSON is YAML: the job reads its study as any other.
                entrypoint=_entrypoint(),
                submission_id=identity,
                metadata={"study": spec.study},
                runtime_env={
                    "working_dir": folder,
                    "env_vars": {
                        "TLSEARCH_DB": url,
                        "TLSEARCH_ARTIFACTS": str(artifacts.resolve()),
                        "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS),
                    },
                },
            )
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise WorkError(f"The cluster refused the job: {_first_line(error)}") from None
    found = _job(client, identity)
    return Job(found.id, found.study, found.status, found.message, new=True)


def jobs(*, address: str) -> list[Job]:
    """Searches that the cluster knows of, the newest last."""
    details = _client(address).list_jobs()
    ours = [d for d in details if (d.submission_id or "").startswith(PREFIX)]
    return [_described(d) for d in sorted(ours, key=lambda d: d.start_time or 0)]


def job(identity: str, *, address: str) -> Job:
    """One job.

    Raises:
        UnknownNameError: the cluster doesn't know it.
    """
    return _job(_client(address), identity)


def logs(identity: str, *, address: str) -> str:
    """What a job has printed so far."""
    client = _client(address)
    _job(client, identity)
    text: str = client.get_job_logs(identity)
    return text


def follow(identity: str, *, address: str) -> Iterator[str]:
    """What a job prints, as it comes, until it ends."""
    client = _client(address)
    _job(client, identity)
    loop = asyncio.new_event_loop()
    try:
        lines = client.tail_job_logs(identity).__aiter__()
        while True:
            try:
                yield loop.run_until_complete(lines.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def wait(identity: str, *, address: str, seconds: float | None = None) -> Job:
    """Wait until a job has ended, or for so many seconds."""
    client = _client(address)
    until = time.monotonic() + seconds if seconds is not None else None
    while True:
        found = _job(client, identity)
        if found.status in ENDED or (until is not None and time.monotonic() > until):
            return found
        time.sleep(POLL_SECONDS)


def stop(identity: str, *, address: str) -> Job:
    """Stop a job and wait until it has stopped."""
    client = _client(address)
    if _job(client, identity).status not in ENDED:
        client.stop_job(identity)
    return wait(identity, address=address, seconds=STOP_SECONDS)


def has_token() -> bool:
    """Whether this machine has a token for a cluster."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.is_file()


def _entrypoint() -> str:
    """The job's shell command: by this Python where the cluster's head has it too, else by its ``python``."""
    mine = shlex.quote(sys.executable)
    return f'PY={mine}; [ -x "$PY" ] || PY=python; exec "$PY" -m tlsearch run study.json --address auto'


def _client(address: str) -> JobSubmissionClient:
    host = _host(address)
    if has_token():
        # Ray reads this when it is imported, and sends no token without it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    elif not _loopback(host):
        raise InputError(
            f"No token for {host}: jobs are sent to other machines with a token only.", hint=TOKEN_HINT
        )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        said = "refuses this machine's token" if has_token() else "asks for a token, and there is none here"
        raise InputError(f"The cluster at {address} {said}.", hint=TOKEN_HINT) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorkError(
            f"No cluster answers at {address}: {_first_line(error)}",
            hint="Start one with `ray start --head`, or give --address.",
        ) from None


def _host(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f'"{address}" is not the address of a cluster.',
            hint="It is the URL of its dashboard, such as http://127.0.0.1:8265",
        )
    return parts.hostname


def _job(client: JobSubmissionClient, identity: str) -> Job:
    try:
        return _described(client.get_job_info(identity))
    except RuntimeError as error:
        if "does not exist" in str(error):
            raise UnknownNameError(
                f'The cluster knows no job "{identity}".', hint="`tlsearch jobs` lists them."
            ) from None
        raise WorkError(f"The cluster can't tell about {identity}: {_first_line(error)}") from None


def _described(details: Any) -> Job:
    status = getattr(details.status, "value", details.status)
    return Job(
        id=str(details.submission_id),
        study=str((details.metadata or {}).get("study", "")),
        status=str(status),
        message=str(details.message or ""),
    )


def _reachable(database: str, address: str) -> str:
    """The database URL as the job is to use it."""
    host = _host(address)
    if re.search(r"://[^/@]*:[^/@]*@", database):
        raise InputError(
            "The database URL holds a password, which the job's description would show to all.",
            hint="Leave it out of the URL and set PGPASSWORD, or ~/.pgpass, on the cluster's nodes.",
        )
    if not database.startswith("sqlite:///"):
        return database
    if not _loopback(host):
        raise InputError(
            f"{database} is a file of this machine, which the cluster at {address} can't reach.",
            hint="Give a PostgreSQL database: --db postgresql://USER@HOST/NAME",
        )
    return f"sqlite:///{Path(database.removeprefix('sqlite:///')).resolve()}"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
