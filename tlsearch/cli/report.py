"""``report``: a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.html", help="Where it goes; else STUDY.html here."),
    ] = None,
    no_model: Annotated[
        bool,
        typer.Option(
            "--no-model", help="Read the database only: no confusion matrix, mistakes, reliability, latency."
        ),
    ] = False,
    db: options.Database = None,
) -> None:
    """Write a report: which model, how good and how sure, at what cost, and why it won."""
    from tlsearch.reports import html

    written = html.write(
        options.database(db),
        study,
        out or Path(f"{study}.html"),
        run_model=not no_model,
        say=output.say,
    )
    output.tell(str(written))
