"""``init`` and ``schema``: a study file to begin with, and what may stand in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(init)
    app.command()(schema)


def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders, or a table.")],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where it goes; else NAME.yaml right here."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the study; else the data's own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json: options.Json = False,
) -> None:
    """Look at labelled images and write a commented study file that fits them."""
    from tlsearch.search.propose import propose

    if not data.exists():
        raise InputError(f"There is nothing at {data}.", hint="Name a folder of class folders, or a table.")
    beside = out.parent if out is not None else Path()
    proposal = propose(data, name=name, beside=beside)
    path = out or Path(f"{proposal.study}.yaml")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(proposal.text)
    except FileExistsError:
        raise InputError(
            f"{path} is there already.", hint="Name another with --output, or say --force."
        ) from None
    except OSError as error:
        raise InputError(f"Can't write {path}: {error.strerror}.") from None
    if json:
        output.print_json(proposal)
        return
    size = f", about {proposal.pixels} pixels" if proposal.pixels else ""
    output.say(
        f"{proposal.items:,} items of {len(proposal.counts)} classes{size}; {len(proposal.broken)} broken."
    )
    for note in proposal.notes:
        output.say(note)
    output.say(f"Wrote {path}: look at it, then `tlsearch run {path}`.")


def schema() -> None:
    """Print the JSON schema of study files, for editors that complete and check YAML."""
    from tlsearch.spec import json_schema

    output.print_json(json_schema())
