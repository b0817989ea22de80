"""``submit``, ``jobs``, ``logs``, ``stop``: searches as jobs of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlsearch.cli import cluster, options, output
from tlsearch.cli.search import Insecure, Minutes, Setting, Trials, read_settings, read_study

if TYPE_CHECKING:
    from tlsearch.spec import StudySpec

Address = Annotated[
    str,
    typer.Option(
        envvar="TLSEARCH_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard, such as http://127.0.0.1:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as `tlsearch cluster jobs` lists it.")]
LOCAL = "http://127.0.0.1:8265"
Wait = Annotated[bool, typer.Option("--wait", help="Return when the job has ended.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Print its log until it ends.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (submit, jobs, logs, stop):
        cluster.group.command()(command)


def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    address: Address = LOCAL,
    trials: Trials = None,
    minutes: Minutes = None,
    setting: Setting = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    wait: Wait = False,
    follow: Follow = False,
    insecure_no_token: Insecure = False,
    json: options.Json = False,
) -> None:
    """Submit a search to a Ray cluster.

    Submitting the same study again finds the same job.
    """
    url = options.database(db)
    settings = read_settings(setting or ())
    parsed = read_study(study, url, trials=trials, minutes=minutes, overrides=settings)
    hand_in(
        parsed,
        url,
        artifacts,
        address=address,
        insecure=insecure_no_token,
        wait=wait,
        follow=follow,
        as_json=json,
    )


def hand_in(
    parsed: StudySpec,
    url: str,
    artifacts: str | None,
    *,
    address: str,
    insecure: bool,
    wait: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Submit a study and, if asked, stay until its job has ended."""
    from tlsearch.cluster import jobs as ray_jobs

    place = options.artifacts(artifacts, url)
    job = ray_jobs.submit(parsed, address=address, database=url, artifacts=place, insecure=insecure)
    for note in job.notes:
        output.say(f"note: {note}")
    if not as_json:
        output.say(f"{'Submitted' if job.new else 'Already submitted'}: job {job.id}.")
    if follow:
        for line in ray_jobs.follow(job.id, address=address, insecure=insecure):
            output.say(line.rstrip("\n"))
    if not (wait or follow):
        if as_json:
            output.print_json(job)
        return
    ended = ray_jobs.wait(job.id, address=address, insecure=insecure)
    if as_json:
        output.print_json(ended)
    else:
        output.say(f"Job {ended.id}: {ended.status}")
    if ended.status != "SUCCEEDED":
        if not follow:
            output.say(
                f"Its log ends with:\n{ray_jobs.last_words(job.id, address=address, insecure=insecure)}"
            )
        raise typer.Exit(1)


def jobs(address: Address = LOCAL, insecure_no_token: Insecure = False, json: options.Json = False) -> None:
    """List the jobs of a cluster."""
    from tlsearch.cluster import jobs as ray_jobs

    found = ray_jobs.jobs(address=address, insecure=insecure_no_token)
    if json:
        output.print_json(found)
        return
    output.print_table(
        ["job", "status", "study", "message"], [[j.id, j.status, j.study, j.message] for j in found]
    )


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    address: Address = LOCAL,
    insecure_no_token: Insecure = False,
) -> None:
    """Print what a job has printed."""
    from tlsearch.cluster import jobs as ray_jobs

    if follow:
        for line in ray_jobs.follow(job, address=address, insecure=insecure_no_token):
            print(line, end="", flush=True)
    else:
        print(ray_jobs.logs(job, address=address, insecure=insecure_no_token), end="")


def stop(
    job: JobId, address: Address = LOCAL, insecure_no_token: Insecure = False, json: options.Json = False
) -> None:
    """Stop a job; its study can be resumed."""
    from tlsearch.cluster import jobs as ray_jobs

    ended = ray_jobs.stop(job, address=address, insecure=insecure_no_token)
    if json:
        output.print_json(ended)
    else:
        output.say(f"Job {ended.id}: {ended.status}")
