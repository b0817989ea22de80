"""``tlsearch look``: what the network sees of the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.cli.search import Setting, read_settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(look)


def look(
    data: options.Target,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.html", help="File to write; STUDY-look.html by default."
        ),
    ] = None,
    each: Annotated[int, typer.Option(min=1, help="Pictures shown of each class and split.")] = 2,
    setting: Setting = None,
) -> None:
    """Show pictures as the network sees them, on a page.

    They are resized, cropped and augmented as in the search; some of each class and split are shown.
    """
    from tlsearch.cli.live import view
    from tlsearch.reports import look as page
    from tlsearch.search import from_data

    columns = options.columns(image_column, label_column)
    parsed = from_data.study_of(data, overrides=read_settings(setting or ()), columns=columns)
    with view() as observe:
        looked = page.write(parsed, out or Path(f"{parsed.study}-look.html"), each=each, observe=observe)
    for sentence in looked.overview.sentences:
        output.say(sentence)
    print(looked.path)
