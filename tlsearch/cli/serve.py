"""``serve``: the best model behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.cli.inference import StudyOrBundle, model_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    study: StudyOrBundle,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; all but this machine's own need a token.")
    ] = ("127.0.0.1"),
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TLSEARCH_TOKEN",
            help="Token that callers must send as `Authorization: Bearer TOKEN`. Better set the variable: "
            "`ps` shows options to all users.",
            show_default=False,
        ),
    ] = None,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Largest request, in megabytes.")] = 32.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of one image.")] = 50_000_000,
    max_all_pixels: Annotated[
        int, typer.Option(min=1, help="Most pixels of all images in one request.")
    ] = 200_000_000,
    max_files: Annotated[int, typer.Option(min=1, help="Most images in one request.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Most images that go through the model together.")] = 32,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long a batch waits for more images.")] = 2.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Host name under which requests may reach this server; may be repeated. By default this "
            "machine's own (localhost, 127.0.0.1), or any name if other machines can reach it.",
            show_default=False,
        ),
    ] = None,
    db: options.Database = None,
) -> None:
    """Serve the best model over HTTP, with a page to try it on.

    POST /predict takes images, /docs describes it.

    Ctrl-C stops it, after open requests are answered.
    """
    from tlsearch.models.serving.limits import Limits, check_host, check_installed

    check_installed()
    check_host(host, token)
    from tlsearch.models.serving.server import run

    limits = Limits(
        bytes=int(max_mb * 1e6),
        pixels=max_pixels,
        all_pixels=max(max_all_pixels, max_pixels),
        files=max_files,
        batch=batch,
        wait=wait_ms / 1000,
    )
    run(
        model_of(study, db),
        host=host,
        port=port,
        token=token,
        limits=limits,
        told=output.say,
        allowed=tuple(allow_host or ()),
    )
