"""``cluster``: what a cluster needs besides Ray."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from tlsearch.cli import output

group = typer.Typer(
    no_args_is_help=True, help="Run searches as jobs of a Ray cluster.", rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="cluster")


@group.callback()
def _group() -> None:
    """Run searches as jobs of a Ray cluster."""


@group.command()
def token(
    show: Annotated[
        bool, typer.Option("--show", help="Print the token itself, to copy it to another machine.")
    ] = False,
) -> None:
    """Make a cluster's token, and print how it is used.

    Nodes and people need it to get onto the cluster.
    """
    from tlsearch.cluster import token as tokens

    if show:
        print(tokens.read())
        return
    path, new = tokens.create()
    output.say(f"{'A new token is' if new else 'There is a token'} in {path}; nobody else can read it.")
    output.say("Every node needs it before `ray start`, and so does everybody who submits jobs. Set:")
    print("export RAY_AUTH_MODE=token")
    print(f"export {tokens.PATH}={shlex.quote(str(path))}")
