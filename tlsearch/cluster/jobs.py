"""Searches as Ray jobs: submit, list, follow, stop. The only file that talks to Ray's job server.

Whoever may submit may run code on the cluster. So a token is used wherever there is one, and anything but a
loopback address is refused without.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tlsearch import artifacts as stores
from tlsearch.cluster import token
from tlsearch.database.address import parse
from tlsearch.errors import InputError, UnknownNameError, UnreachableError, WorkError
from tlsearch.files import scratch
from tlsearch.search.lease_heartbeat import who
from tlsearch.search.registration import refuse_conflicts
from tlsearch.spec import StudySpec
from tlsearch.urls import public

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
PREFIX = "tlsearch-"
POLL_SECONDS = 1.0
STOP_SECONDS = 60.0
READY_SECONDS = 60.0
"""How long a job server may take until it accepts jobs."""
GRACE_SECONDS = 30
"""What a stopped job has to end its trials and give its study back; Ray's own 3 seconds are too few."""


@dataclass(frozen=True, slots=True)
class Job:
    """A search on a cluster. ``new`` tells whether the call that returned it submitted it.

    ``notes`` are sentences about what couldn't be checked from here.
    """

    id: str
    study: str
    status: str
    message: str
    new: bool = False
    notes: tuple[str, ...] = ()


def submit(spec: StudySpec, *, address: str, database: str, artifacts: str, insecure: bool = False) -> Job:
    """Hand a study to a cluster; one that is running there already is found, not submitted again.

    Args:
        spec: the study.
        address: of the cluster's dashboard, such as ``http://127.0.0.1:8265``.
        database: URL of the study database as the cluster's nodes reach it.
        artifacts: place for weights and models as the cluster's nodes reach it.
        insecure: talk to another machine without a token, too.

    Raises:
        InputError: the address or the database can't be used this way, or the study can't run there.
        WorkError: the cluster can't be reached.
    """
    url = _reachable(database, address)
    client = _client(address, insecure=insecure)
    document = spec.to_json()
    digest = hashlib.sha256(json.dumps([document, url], sort_keys=True).encode()).hexdigest()[:10]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.study)  # a job's identity is part of a URL
    stem = f"{PREFIX}{plain}-{digest}"
    earlier = [job for job in jobs(address=address, insecure=insecure) if job.id.startswith(stem)]
    for job in earlier:
        if job.status not in ENDED:
            return job
    notes = _check_from_here(spec, url)
    identity = f"{stem}-{len(earlier) + 1}"
    with scratch("job") as folder:
        (Path(folder) / "study.json").write_text(json.dumps(document, indent=2))
        environment = {
            "TLSEARCH_DB": url,
            "TLSEARCH_ARTIFACTS": stores.normal(artifacts),
            "TLSEARCH_USER": who(),
            "TLSEARCH_JOB": identity,
            "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS),
        }
        _hand_in(client, identity, study=spec.study, folder=folder, environment=environment)
    found = _job(client, identity)
    return Job(found.id, found.study, found.status, found.message, new=True, notes=notes)


def _hand_in(
    client: JobSubmissionClient, identity: str, *, study: str, folder: str, environment: dict[str, str]
) -> None:
    """Submit a job, and wait for a cluster that has only just started."""
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            client.submit_job(
                # JSON is YAML: the job reads its study as any other.
                entrypoint=_entrypoint(),
                submission_id=identity,
                metadata={"study": study},
                runtime_env={"working_dir": folder, "env_vars": environment},
            )
            return
        except RuntimeError as error:
            if "already exists" in str(error):
                return
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise WorkError(f"The cluster refused the job: {_first_line(error)}") from None
        time.sleep(POLL_SECONDS)


def jobs(*, address: str, insecure: bool = False) -> list[Job]:
    """Searches that the cluster knows of, the newest last."""
    details = _client(address, insecure=insecure).list_jobs()
    ours = [d for d in details if (d.submission_id or "").startswith(PREFIX)]
    return [_described(d) for d in sorted(ours, key=lambda d: d.start_time or 0)]


def job(identity: str, *, address: str, insecure: bool = False) -> Job:
    """One job.

    Raises:
        UnknownNameError: the cluster doesn't know it.
    """
    return _job(_client(address, insecure=insecure), identity)


def logs(identity: str, *, address: str, insecure: bool = False) -> str:
    """What a job has printed so far."""
    client = _client(address, insecure=insecure)
    _job(client, identity)
    text: str = client.get_job_logs(identity)
    return text


def last_words(identity: str, *, address: str, insecure: bool = False, lines: int = 8) -> str:
    """The last lines that a job printed, which say why it ended."""
    text = logs(identity, address=address, insecure=insecure)
    return "\n".join(text.rstrip().splitlines()[-lines:])


def follow(identity: str, *, address: str, insecure: bool = False) -> Iterator[str]:
    """What a job prints, as it comes, until it ends."""
    client = _client(address, insecure=insecure)
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


def wait(identity: str, *, address: str, seconds: float | None = None, insecure: bool = False) -> Job:
    """Wait until a job has ended, or for so many seconds."""
    client = _client(address, insecure=insecure)
    until = time.monotonic() + seconds if seconds is not None else None
    while True:
        found = _job(client, identity)
        if found.status in ENDED or (until is not None and time.monotonic() > until):
            return found
        time.sleep(POLL_SECONDS)


def stop(identity: str, *, address: str, insecure: bool = False) -> Job:
    """Stop a job and wait until it has stopped."""
    client = _client(address, insecure=insecure)
    if _job(client, identity).status not in ENDED:
        client.stop_job(identity)
    return wait(identity, address=address, seconds=STOP_SECONDS, insecure=insecure)


def _check_from_here(spec: StudySpec, database: str) -> tuple[str, ...]:
    """Refuse what the database already tells won't run; the job examines the cluster itself.

    A database that only the cluster can reach is no error.
    """
    try:
        refuse_conflicts(spec, database)
    except UnreachableError as error:
        return (f"Not checked from here, the job will: {error.message}",)
    return ()


def _entrypoint() -> str:
    """The job's shell command: by this Python where the cluster's head has it too, else by its ``python``."""
    mine = shlex.quote(sys.executable)
    return f'PY={mine}; [ -x "$PY" ] || PY=python; exec "$PY" -m tlsearch.cluster.entry study.json'


def _client(address: str, *, insecure: bool) -> JobSubmissionClient:
    token.use(_host(address), insecure=insecure)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        said = "refuses this machine's token"
        if not token.available():
            said = "asks for a token, and there is none here"
        raise InputError(f"The cluster at {public(address)} {said}.", hint=token.HINT) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorkError(
            f"No cluster answers at {public(address)}: {_first_line(error)}",
            hint="Start one with `ray start --head`, or give --address.",
        ) from None


def _host(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f'"{public(address)}" is not the address of a cluster.',
            hint="It is the URL of its dashboard, such as http://127.0.0.1:8265",
        )
    return parts.hostname


def _job(client: JobSubmissionClient, identity: str) -> Job:
    try:
        return _described(client.get_job_info(identity))
    except RuntimeError as error:
        if "does not exist" in str(error):
            raise UnknownNameError(
                f'The cluster knows no job "{identity}".', hint="`tlsearch cluster jobs` lists them."
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
    if parse(database).has_password:
        raise InputError(
            "The database URL holds a password, which the job's description would show to all.",
            hint="Leave it out of the URL and set PGPASSWORD, or ~/.pgpass, on the cluster's nodes.",
        )
    if not database.startswith("sqlite:///"):
        return database
    if not token.loopback(host):
        raise InputError(
            f"{database} is a file of this machine, which the cluster at {public(address)} can't reach.",
            hint="Give a PostgreSQL database: --db postgresql://USER@HOST/NAME",
        )
    return f"sqlite:///{Path(database.removeprefix('sqlite:///')).resolve()}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
