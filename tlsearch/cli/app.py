"""All commands, gathered."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tlsearch.cli import (
    audit,
    begin,
    cluster,
    dashboard,
    distill,
    embeddings,
    export,
    inference,
    installed,
    jobs,
    look,
    maintenance,
    output,
    overview,
    plugins,
    query,
    report,
    search,
    serve,
    steer,
    streams,
)

MOVED = {
    "submit": "cluster submit",
    "jobs": "cluster jobs",
    "logs": "cluster logs",
    "stop": "cluster stop",
    "studies": "study list",
    "resume": "study resume",
    "pause": "study pause",
    "cancel": "study cancel",
    "fork": "study fork",
    "schema": "study schema",
    "strategies": "plugins strategies",
    "datasets": "plugins datasets",
    "export-optuna": "db export-optuna",
}
"""Commands by the names that they had at the top, and what they are now. They still work."""


class Commands(TyperGroup):
    """The commands; one that was moved into a group is found by its old name, with a word about it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words begin with, and what is left of them."""
        if args and args[0] in MOVED:
            output.say(f"`tlsearch {args[0]}` is now `tlsearch {MOVED[args[0]]}`.")
            args = [*MOVED[args[0]].split(), *args[1:]]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; typer would end an interrupted one without a word.

        It would call it a failure, too, if the reader of the output goes away, as `head` does.
        """
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here, where an error still has somebody to tell it
        except KeyboardInterrupt:
            output.say("Interrupted.")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            streams.drop_output()
            raise typer.Exit(0) from None


app = typer.Typer(
    name="tlsearch",
    cls=Commands,
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
    look,
    overview,
    query,
    report,
    dashboard,
    inference,
    embeddings,
    distill,
    export,
    serve,
    plugins,
    installed,
    steer,
    cluster,
    jobs,
    maintenance,
):
    module.register(app)
