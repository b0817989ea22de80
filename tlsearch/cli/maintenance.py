"""``db`` and ``doctor``: the study database and the installation."""

from __future__ import annotations

from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.cli.dashboard import export_optuna

Command = Annotated[str, typer.Argument(metavar="upgrade|version", help="What to do.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    database = typer.Typer(
        help="The study database: its schema, and copies for Optuna.", no_args_is_help=True
    )
    database.command()(upgrade)
    database.command()(version)
    database.command("export-optuna")(export_optuna)
    app.add_typer(database, name="db")
    app.command()(doctor)


def upgrade(db: options.Database = None) -> None:
    """Bring a study database to this version's schema."""
    from tlsearch.database import store

    url = options.database(db)
    store.upgrade(url)
    output.say(f"The database has schema {store.schema_version(url)}.")


def version(db: options.Database = None, json: options.Json = False) -> None:
    """Print the schema version of the database."""
    from tlsearch.database import store

    found = store.schema_version(options.database(db))
    output.print_json({"schema": found}) if json else print(found)


def doctor(db: options.Database = None, json: options.Json = False) -> None:
    """Check the installation, the machine and the database."""
    from tlsearch.reports.doctor import examine

    checks = examine(options.database(db))
    if json:
        output.print_json(checks)
    else:
        output.print_table(
            ["", "check", "found"], [["ok" if c.ok else "PROBLEM", c.what, c.found] for c in checks]
        )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
