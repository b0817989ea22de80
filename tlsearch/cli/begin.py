"""``init`` and ``schema``: a study file to begin with, and what may stand in one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.errors import InputError

if TYPE_CHECKING:
    from tlsearch.search.study_template import Proposal

NAMED = 5
"""Items that can't be used, of which `init` says why."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    data: options.Labelled,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write; NAME.yaml by default."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; that of the data by default.")] = None,
    preset: options.Preset = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    label_separator: Annotated[
        str | None,
        typer.Option(help="What separates labels, where a cell of the label column holds several."),
    ] = None,
    split_column: Annotated[
        str | None,
        typer.Option(
            help="Column of a table with the splits, '' for none; by default `split`, where it is there."
        ),
    ] = None,
    corrected: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Labels that were corrected, as `audit --labels` writes them."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    json: options.Json = False,
) -> None:
    """Write a commented study file for labelled images."""
    from tlsearch.search import from_data
    from tlsearch.search.study_template import propose
    from tlsearch.spec import presets

    from_data.refuse_no_file(data)
    if not data.exists():
        raise InputError(f"There is nothing at {data}.", hint="Name a folder of class folders, or a table.")
    beside = _beside(out)
    effort = presets.preset(preset or presets.DEFAULT)
    columns = options.columns(
        image_column, label_column, label_separator=label_separator, split_column=split_column
    )
    proposal = propose(data, name=name, beside=beside, preset=effort, columns=columns, corrected=corrected)
    path = out or Path(f"{proposal.study}.yaml")
    from_data.write(path, proposal.text, over=force)
    if json:
        output.print_json(proposal)
        return
    say_proposal(path, proposal)
    output.say(f"Check the file, then run `tlsearch run {shlex.quote(str(path))}`.")


def _beside(out: Path | None) -> Path:
    """The folder of a new study file, which is there."""
    beside = out.parent if out is not None else Path()
    if not beside.is_dir():
        raise InputError(f"There is no folder {beside} for the study file.", hint="Make it first.")
    return beside


def say_proposal(path: Path, proposal: Proposal) -> None:
    """What a new study file rests on, and its reasons."""
    size = f", about {proposal.pixels} pixels" if proposal.pixels else ""
    aside = f"; {len(proposal.broken)} can't be used" if proposal.broken else ""
    output.say(
        f"{proposal.about}{size}{aside}. "
        "Only file names and some image sizes were read: "
        "`tlsearch audit` and `run` decode every image."
    )
    for line in proposal.broken[:NAMED]:
        output.say(f"can't be used: {line}")
    if len(proposal.broken) > NAMED:
        output.say(f"can't be used: {len(proposal.broken) - NAMED} more")
    for note in proposal.notes:
        output.say(note)
    output.say(f"Wrote {path.absolute()}:")
    for line in proposal.text.splitlines():
        if " # " in line and not line.startswith("#"):
            output.say(f"  {re.sub(r'  +', '  ', line.strip())}")
    if proposal.pixels:
        output.say(
            f"`tlsearch look {shlex.quote(str(path))}` shows what the network will see of the pictures."
        )


def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from tlsearch.spec import json_schema

    output.print_json(json_schema())
