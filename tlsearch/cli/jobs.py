"""``submit``, ``jobs``, ``logs``, ``stop``: searches as jobs of a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.cli.search import Setting, read_settings

Address = Annotated[
    str,
    typer.Option(
        envvar="TLSEARCH_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard, such as http://127.0.0.1:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as `tlsearch jobs` lists it.")]
LOCAL = "http://127.0.0.1:8265"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (submit, jobs, logs, stop):
        app.command()(command)


def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    address: Address = LOCAL,
    setting: Setting = None,
    db: options.Database = None,
    artifacts: options.Artifacts = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the job has ended.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print its log meanwhile.")] = False,
    json: options.Json = False,
) -> None:
    """Hand a search to a Ray cluster. Handing in the same study again finds the same job."""
    from tlsearch import spec
    from tlsearch.cluster import jobs as cluster

    parsed = spec.load(study, overrides=read_settings(setting or ()))
    url = options.database(db)
    job = cluster.submit(parsed, address=address, database=url, artifacts=options.artifacts(artifacts, url))
    if not json:
        output.say(f"{'Submitted' if job.new else 'Already submitted'}: job {job.id}.")
    if follow:
        for line in cluster.follow(job.id, address=address):
            output.say(line.rstrip("\n"))
    ended = cluster.wait(job.id, address=address) if wait or follow else cluster.job(job.id, address=address)
    if json:
        output.print_json(ended)
    elif wait or follow:
        output.say(f"Job {ended.id}: {ended.status}")
    if (wait or follow) and ended.status != "SUCCEEDED":
        raise typer.Exit(1)


def jobs(address: Address = LOCAL, json: options.Json = False) -> None:
    """List the jobs of a cluster."""
    from tlsearch.cluster import jobs as cluster

    found = cluster.jobs(address=address)
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
) -> None:
    """Print what a job has printed."""
    from tlsearch.cluster import jobs as cluster

    if follow:
        for line in cluster.follow(job, address=address):
            print(line, end="")
    else:
        print(cluster.logs(job, address=address), end="")


def stop(job: JobId, address: Address = LOCAL, json: options.Json = False) -> None:
    """Stop a job; its study can be resumed."""
    from tlsearch.cluster import jobs as cluster

    ended = cluster.stop(job, address=address)
    if json:
        output.print_json(ended)
    else:
        output.say(f"Job {ended.id}: {ended.status}")
