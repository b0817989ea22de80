"""``predict`` and ``evaluate``: the best model at work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlsearch.cli import options, output
from tlsearch.errors import BundleError

if TYPE_CHECKING:
    from tlsearch.models.bundle import Model

StudyOrBundle = Annotated[
    str, typer.Argument(metavar="STUDY", help="Name of a study, or folder of a model bundle.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(predict)
    app.command()(evaluate)


def predict(
    study: StudyOrBundle,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 1,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Classify images with the best model of a study."""
    from tlsearch.models.evaluation import image_paths

    paths = image_paths(images)
    predictions = list(_model(study, db).describe(paths))
    if json:
        output.print_json(predictions)
    else:
        for prediction in predictions:
            likely = list(prediction.probabilities.items())[:top]
            told = ", ".join(f"{name} {share:.4f}" for name, share in likely)
            print(f"{prediction.item}: {told or 'unreadable: ' + str(prediction.error)}")
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(2)


def evaluate(
    study: StudyOrBundle,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders, or a table.")],
    split: Annotated[str | None, typer.Option(help="Only train, val or test, where data has them.")] = None,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Score the best model of a study on labelled images."""
    from tlsearch.models.evaluation import evaluate as score

    found = score(_model(study, db), data, split=split)
    if json:
        output.print_json(found)
        return
    for line in found.broken:
        output.say(f"set aside: {line}")
    output.print_table(
        ["", f"{found.items} images"],
        [
            *found.metrics.items(),
            *((f"recall of {name}", share) for name, share in found.per_class.items()),
        ],
    )


def _model(study: str, db: str | None) -> Model:
    from tlsearch.models import bundle

    folder = Path(study)
    if (folder / bundle.MANIFEST).is_file():
        return bundle.load(folder)
    from tlsearch.reports.studies import Studies

    with Studies(options.database(db)) as database:
        best = database.best(study)
    if best.model is None:
        raise BundleError(
            f'Study "{study}" has no verified model yet.',
            hint="It gets one when its search has ended: run it again to finish it.",
        )
    loaded = bundle.load(Path(best.model.uri))
    if loaded.manifest.sha256 != best.model.sha256:
        raise BundleError(
            f"{best.model.uri} holds another model than the one recorded for {study}.",
            hint="Run the study again to have it written anew.",
        )
    return loaded
