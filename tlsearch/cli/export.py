"""``export``: the best model in the formats of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.cli.use import StudyOrBundle, model_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    study: StudyOrBundle,
    folder: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where to; several formats get a folder each in it."
        ),
    ],
    formats: Annotated[
        list[str],
        typer.Option("--format", "-f", help="timm, onnx, torch or huggingface; may be repeated."),
    ],
    preprocess: Annotated[
        str,
        typer.Option(
            metavar="inside|beside",
            help="ONNX and torch: scaling and normalizing in the graph (takes uint8 pixels), or described in "
            "preprocessing.json (takes float32).",
        ),
    ] = "inside",
    opset: Annotated[int, typer.Option(min=18, max=23, help="Of ONNX.")] = 18,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Files or folders to try it on; else the study's validation images, else noise."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Write the best model for timm, ONNX, torch or as a Hugging Face folder.

    Each export is tried right after writing: a process that can't import tlsearch predicts image files with
    it, and must agree with the model. If it doesn't, nothing is left and the exit code is 1.
    """
    from tlsearch.models.export.whole import Options, parse_preprocess
    from tlsearch.models.export.write import check_request
    from tlsearch.models.export.write import export as write
    from tlsearch.reports.samples import held_out

    how = Options(inside=parse_preprocess(preprocess), opset=opset)
    check_request(folder, formats, overwrite=overwrite)
    model = model_of(study, db)
    items, source = held_out(study, options.database(db), model, given=images or [], told=output.say)
    done = write(
        model,
        folder,
        formats,
        options=how,
        items=items,
        source=source,
        overwrite=overwrite,
        told=output.say,
    )
    if json:
        output.print_json(done)
        return
    for one in done:
        tried = one.checked
        print(
            f"{one.folder}: {', '.join(one.files)} ({one.bytes / 1e6:.1f} MB); agrees with the model on "
            f"{tried.pictures} images ({tried.source}), probabilities within {tried.difference:.1g}"
        )
