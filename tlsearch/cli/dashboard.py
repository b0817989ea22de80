"""``dashboard`` and ``export-optuna``: studies as Optuna's tools show them."""

from __future__ import annotations

from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.counts import plural


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dashboard)


def dashboard(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    db: options.Database = None,
) -> None:
    """Show studies live in optuna-dashboard, on this machine only.

    Ctrl-C stops it; running searches go on.
    """
    from tlsearch.reports import dashboard as server

    def ready(url: str) -> None:
        output.say(f"The dashboard is on {url}, read-only. Ctrl-C stops it.")

    server.serve(options.database(db), port=port, ready=ready)


def export_optuna(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    to: Annotated[str, typer.Option(metavar="URL", help="Optuna's database, such as sqlite:///optuna.db.")],
    db: options.Database = None,
) -> None:
    """Copy a study into an Optuna database, for Optuna's tools."""
    from tlsearch.reports.optuna_view import export

    count = export(options.database(db), study, to)
    output.say(f"{plural(count, 'trial')} copied. Look at them with: optuna-dashboard {to}")
