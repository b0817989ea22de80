"""``report``: a study as one page."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE.html", help="File to write; STUDY.html by default."
        ),
    ] = None,
    no_model: Annotated[
        bool,
        typer.Option(
            "--no-model",
            help="Don't run the model: no confusion matrix, mistakes, calibration or latency.",
        ),
    ] = False,
    db: options.Database = None,
) -> None:
    """Write a page: which model, how sure, at what cost, and why."""
    from tlsearch.reports import html

    _refuse_bundle(study)
    page = out or Path(f"{study}.html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"{page} would hold a page: its name must end in .html.", hint="A browser prints it as PDF."
        )
    written = html.write(
        options.database(db),
        study,
        page,
        run_model=not no_model,
        say=output.say,
    )
    output.tell(str(written))


def _refuse_bundle(study: str) -> None:
    """Refuse the folder of a model where a study is to be named.

    Raises:
        InputError: it is one.
    """
    from tlsearch.models.manifest import MANIFEST, read_manifest

    if not os.path.isfile(os.path.join(study, MANIFEST)):
        return
    known = read_manifest(Path(study)).provenance.get("study")
    own = (
        f"`tlsearch report {shlex.quote(str(known))}` tells of the study that it comes from; "
        if known
        else ""
    )
    raise InputError(
        f"{study} is the bundle of a model, and a report is of a study.",
        hint=f"{own}`tlsearch evaluate {shlex.quote(study)} DATA` scores the model itself.",
    )
