"""All commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from tlsearch.cli import (
    audit,
    begin,
    care,
    cluster,
    dashboard,
    export,
    installed,
    jobs,
    plugins,
    query,
    report,
    search,
    serve,
    steer,
    use,
)

app = typer.Typer(
    name="tlsearch",
    help="Finds the best way to carry a pretrained network over to your images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tlsearch {version('tlsearch')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version),
    ] = False,
) -> None:
    """Finds the best way to carry a pretrained network over to your images."""


for module in (
    begin,
    search,
    audit,
    query,
    report,
    dashboard,
    use,
    export,
    serve,
    plugins,
    installed,
    jobs,
    steer,
    cluster,
    care,
):
    module.register(app)
