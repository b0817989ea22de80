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

    written = html.write(
        options.database(db),
        study,
        out or Path(f"{study}.html"),
        run_model=not no_model,
        say=output.say,
    )
    output.tell(str(written))
