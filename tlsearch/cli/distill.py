"""``distill``: one small network that answers as a study's model does."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.inference import model_of
from tlsearch.errors import InputError

if TYPE_CHECKING:
    from tlsearch.models.model import Model

Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the new bundle.")]
Backbone = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of the small network; by default the study's smallest."),
]
Weights = Annotated[
    str | None,
    typer.Option(help="pretrained, random, or a file; by default the study's for that backbone."),
]
Minutes = Annotated[
    float | None, typer.Option(min=0.1, help="Shorten both trainings so that all is done by then.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier bundle.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(distill)


def distill(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a finished study.")],
    folder: Output,
    backbone: Backbone = None,
    weights: Weights = None,
    minutes: Minutes = None,
    overwrite: Overwrite = False,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Train one small network that answers as a study's model does.

    It learns from the model's probabilities and from the labels. The study keeps its model; the new bundle's
    folder takes the place of STUDY in predict, evaluate, serve and export.
    """
    from tlsearch.cli.live import view
    from tlsearch.files import refuse_taken, refuse_unwritable
    from tlsearch.models import bundle
    from tlsearch.search.distill import distill as train

    if os.path.isfile(Path(study) / bundle.MANIFEST):
        raise InputError(
            f"{study} is a bundle, which comes without data to learn from.", hint="Name its study instead."
        )
    refuse_taken(folder, marker=bundle.MANIFEST, earlier="a bundle", what="a bundle", overwrite=overwrite)
    if not folder.exists():
        refuse_unwritable(folder)
    teacher = model_of(study, db)
    with view() as observe:
        student = train(
            study,
            teacher,
            database=options.database(db),
            folder=folder,
            backbone=backbone,
            weights=weights,
            minutes=minutes,
            observe=observe,
        )
    # Loaded anew: training moved the teacher to the GPU, where there is one.
    rows = {"teacher": _facts(model_of(study, db)), "student": _facts(student)}
    if json:
        output.print_json({"bundle": str(folder), **rows})
        return
    _tell(rows, student)
    output.say(f"The bundle is in {folder}; the model of {study} is still its own.")
    place = shlex.quote(str(folder))
    onnx = shlex.quote(f"{str(folder).rstrip('/')}-onnx")
    output.say_next(
        [f"predict {place} ITEM...", f"evaluate {place} DATA", f"export {place} --format onnx -o {onnx}"]
    )


def _facts(model: Model) -> dict[str, Any]:
    """Size, latency and scores of a model."""
    from tlsearch.reports.latency import milliseconds

    manifest = model.manifest
    names = [metric.name for metric in model.task.metrics]
    return {
        "backbone": manifest.backbone,
        "networks": manifest.members,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "megabytes": manifest.bytes / 1e6,
        "milliseconds": milliseconds(model.network, model.inputs),
        **{
            split: {name: manifest.metrics[split][name] for name in names if name in manifest.metrics[split]}
            for split in ("val", "test")
            if split in manifest.metrics
        },
    }


def _tell(rows: dict[str, dict[str, Any]], student: Model) -> None:
    teacher, own = rows["teacher"], rows["student"]
    table: list[list[Any]] = [[name, teacher[name], own[name]] for name in ("backbone", "networks")]
    table.append(["million parameters", *(f"{one['parameters'] / 1e6:.2f}" for one in (teacher, own))])
    table.append(["megabytes", *(f"{one['megabytes']:.2f}" for one in (teacher, own))])
    table.append(["milliseconds per item", *(f"{one['milliseconds']:.2f}" for one in (teacher, own))])
    for split in ("val", "test"):
        for name, value in own.get(split, {}).items():
            if name in teacher.get(split, {}):
                # Its score on val is that of the search, before it learned from these items.
                known = "-" if split == "val" else f"{teacher[split][name]:.4f}"
                table.append([f"{split} {name}", known, f"{value:.4f}"])
    output.print_table(["", "teacher", "student"], table, right=["teacher", "student"])
    output.say(
        "Scores on val are from before the last training. The teacher had learned from these items when it "
        "taught: go by the scores on test."
        if "val" in student.manifest.trained_on
        else "The student was trained without the validation items; the teacher had learned from them."
    )
