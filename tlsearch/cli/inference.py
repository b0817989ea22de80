"""``predict`` and ``evaluate``: the best model at work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch import walk
from tlsearch.cli import options, output
from tlsearch.counts import plural
from tlsearch.errors import BundleError, InputError
from tlsearch.names import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from tlsearch.models.evaluation import Evaluation
    from tlsearch.models.explanation import Explainer
    from tlsearch.models.model import Model
    from tlsearch.models.prediction import Prediction
    from tlsearch.records import StudyItems

StudyOrBundle = Annotated[
    str, typer.Argument(metavar="STUDY", help="Name of a study, or folder of a model bundle.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(predict)
    app.command()(evaluate)


def predict(
    study: StudyOrBundle,
    items: Annotated[
        list[str],
        typer.Argument(
            metavar="ITEM...",
            help="Images, or folders of them; for a text model: tables, .txt files, or texts in quotes.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each item.")] = 1,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="With --save: highlight the areas of each picture that led to its label."
        ),
    ] = False,
    db: options.Database = None,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a row for each item, with all classes.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write pictures with their labels or boxes and a contact sheet, or masks, to a new folder.",
        ),
    ] = None,
) -> None:
    """Predict with the best model of a study.

    Probabilities are calibrated if that helped on validation data (see `bundle.json`). A classifier also says
    where it is unsure, and what is none of its classes.
    """
    model = model_of(study, db)
    say_silent(model)
    task = model.task
    if save is not None:
        _check_save(save, model)
    explainer = _explainer(model, save) if explain else None
    found = [named for item in items for named in model.inputs.find(item)]
    for item in items:
        if model.inputs.modality == "image" and os.path.isdir(item):
            arrays = all(name.lower().endswith(walk.ARRAY) for name, _ in model.inputs.find(item))
            for sentence in walk.overlooked(Path(item), arrays=arrays):
                output.say(sentence)
    described = model.describe([item for _, item in found], [name for name, _ in found])
    predictions = list(_with_progress(described, len(found)))
    if save is not None:
        _save(save, model, [item for _, item in found], predictions, explainer)
    if json:
        output.print_json(predictions)
    elif csv:
        rows = [task.cells(one, model.target_spec) for one in predictions]
        output.print_csv(
            ["item", *(heading for heading, _ in task.cells(task.unreadable, model.target_spec)), "error"],
            [
                [one.item, *(value for _, value in row), one.error]
                for one, row in zip(predictions, rows, strict=True)
            ],
        )
    else:
        for prediction in predictions:
            told = _problem(prediction.error) if prediction.error else task.say(prediction, top=top)
            output.tell(printable(f"{prediction.item}: {told}"))
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(2)


def say_silent(model: Model) -> None:
    """Why a classifier can't say that it doesn't know."""
    if model.silent:
        output.say(f'This model can\'t say "none of these": {model.silent}.')


def _explainer(model: Model, save: Path | None) -> Explainer:
    """What explains a model's answers, once it is known that they can be."""
    if save is None:
        raise InputError("--explain draws pictures.", hint="Name a new folder for them: --save DIR.")
    from tlsearch.models.explanation import Explainer

    return Explainer(model)


def _save(
    folder: Path,
    model: Model,
    items: Sequence[object],
    predictions: Sequence[Prediction],
    explainer: Explainer | None,
) -> None:
    """Write pictures with what is said of them, or the masks of pictures."""
    from tlsearch.contracts import MapTask
    from tlsearch.contracts.images import ImageInput, decode
    from tlsearch.reports import annotated, mask_pictures

    read = [(Path(str(item)), one) for item, one in zip(items, predictions, strict=True) if not one["error"]]
    task, inputs = model.task, model.inputs
    picture_of = inputs.picture if isinstance(inputs, ImageInput) else decode
    if isinstance(task, MapTask):
        drawn = [(path, str(one["mask"])) for path, one in read]
        written = mask_pictures.save(folder, drawn, task, model.target_spec, picture_of)
        output.say(f"Wrote {plural(len(written), 'mask')} to {folder}, and pictures with them to its over/.")
        return
    labelled = [(path, task.say(one, top=1)) for path, one in read]
    if explainer is None:

        def draw(at: int, path: Path) -> Image:
            return task.marked(picture_of(path), read[at][1], model.target_spec)

    else:
        from tlsearch.models import explanation

        def draw(at: int, path: Path) -> Image:
            number = model.target_spec.names.index(read[at][1]["label"])
            return explanation.drawn(explainer, path, number)

    written = annotated.save(folder, labelled, draw)
    if written:
        output.say(f"Wrote {plural(len(written) - 1, 'picture')} and a contact sheet to {folder}.")


def _check_save(folder: Path, model: Model) -> None:
    from tlsearch.reports import annotated

    if model.inputs.modality != "image":
        raise InputError(f"--save writes pictures, and this model takes {model.inputs.modality}.")
    annotated.check_folder(folder)


def _problem(error: str) -> str:
    """What is wrong with an item: a file that is no picture, or a picture that can't be read."""
    from tlsearch.images.decoding import NO_PICTURE

    return f"no picture: {error}" if error in NO_PICTURE else f"unreadable: {error}"


def _with_progress(predictions: Iterable[Prediction], total: int) -> Iterable[Prediction]:
    """The same, with a bar on a terminal's stderr while they come."""
    if not sys.stderr.isatty():
        return predictions
    from rich.console import Console
    from rich.progress import track

    return track(
        predictions, description="predict", total=total, console=Console(stderr=True), transient=True
    )


def evaluate(
    study: StudyOrBundle,
    data: options.Labelled,
    split: Annotated[str | None, typer.Option(help="Only train, val or test, where data has them.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the table, as in a study file: image_column, label_column, root, ...; may be "
            "repeated.",
        ),
    ] = None,
    outsiders: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=options.data_path,
            help="Images that are none of the classes: measure how well they are told apart from DATA.",
            show_default=False,
        ),
    ] = None,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Score the best model of a study on labelled data.

    It warns about files that were used to train or select the model. Files are compared byte by byte: a
    picture that was saved again counts as new.
    """
    from tlsearch.models.evaluation import evaluate as score
    from tlsearch.models.evaluation import table_options

    given = table_options(setting or [])
    model = model_of(study, db)
    keys = {**_known_columns(study, db, data), **given}
    say_silent(model)
    others = [] if outsiders is None else [item for _, item in model.inputs.find(str(outsiders))]
    found = score(model, data, split=split, options=keys, study=_items_of(study, db), outsiders=others)
    for sentence in warnings_of(found, model.manifest.trained_on):
        output.say(sentence)
    if json:
        output.print_json(found)
        return
    for line in found.broken:
        output.say(f"set aside: {line}")
    output.print_table(
        ["", plural(found.items, "item")],
        [
            *found.metrics.items(),
            *((f"{model.task.per_name} of {name}", share) for name, share in found.per_class.items()),
            *_doubts(found.abstention or {}),
        ],
    )
    if found.outsiders:
        output.print_table(
            ["outsiders", plural(found.outsiders["items"], "item")],
            [
                ["AUROC", found.outsiders["auroc"]],
                ["accepted where 95% of own items are", found.outsiders["accepted_at_95"]],
                *([f"called {name}", share] for name, share in found.outsiders["verdicts"].items()),
            ],
        )


def _doubts(known: Mapping[str, Any]) -> list[list[Any]]:
    """Rows on verdicts and on mistakes among the surest answers."""
    rows: list[list[Any]] = [[f"called {name}", share] for name, share in known.get("verdicts", {}).items()]
    if known.get("right_of_sure") is not None:
        rows.append(["right among those called sure", known["right_of_sure"]])
    for share, risk in known.get("risk_at_coverage", {}).items():
        if share != "1":
            rows.append([f"wrong among the surest {float(share):.0%}", risk])
    return rows


def warnings_of(found: Evaluation, trained_on: Sequence[str]) -> list[str]:
    """What makes scores too good: items that the model has learned from, or was chosen by."""
    if found.seen is None:
        return ["Whether the model was trained on these items isn't known: it doesn't list its own here."]
    trained = sum(count for split, count in found.seen.items() if split in trained_on)
    chosen = sum(found.seen.values()) - trained - found.seen.get("test", 0)
    told = []
    if trained:
        told.append(f"Warning: the model was trained on {trained} of these {plural(found.items, 'item')}.")
    if chosen:
        told.append(f"Warning: the model was selected on {chosen} of these {plural(found.items, 'item')}.")
    if not told:
        return []
    return [
        *told,
        "Scores on such items are better than on new ones.",
        "Files are compared byte by byte: pictures that were saved again aren't recognised.",
    ]


def _known_columns(study: str, db: str | None, data: Path) -> dict[str, Any]:
    """Column keys of a study's own table, where another table has them too: nobody names them twice."""
    from tlsearch.models import bundle
    from tlsearch.reports.studies import Studies
    from tlsearch.tables import read_table

    if data.is_dir() or os.path.isfile(Path(study) / bundle.MANIFEST):
        return {}
    with Studies(options.database(db)) as database:
        own = database.study(study).spec["data"]
    keys = {key: own[key] for key in ("image_column", "label_column", "label_separator") if own.get(key)}
    labels = keys.get("label_column", [])
    named = {keys.get("image_column"), *([labels] if isinstance(labels, str) else labels)} - {None}
    return keys if named and named <= set(read_table(data).frame.columns) else {}


def _items_of(study: str, db: str | None) -> StudyItems | None:
    """The items of a study; None for a bundle's folder, or where an older version prepared them."""
    from tlsearch.models import bundle
    from tlsearch.reports.studies import Studies

    if os.path.isfile(Path(study) / bundle.MANIFEST):
        return None
    with Studies(options.database(db)) as database:
        return database.store.items(study)


def model_of(study: str, db: str | None) -> Model:
    """The model of a study, or of a bundle's folder."""
    from tlsearch.models import bundle

    folder = Path(study)
    if os.path.isfile(folder / bundle.MANIFEST):  # False too for names that no file can have
        return bundle.load(folder)
    from tlsearch.reports.studies import Studies

    with Studies(options.database(db)) as database:
        best = database.best(study)
    if best.model is None:
        raise BundleError(f'Study "{study}" has no verified model yet.', hint=best.missing)
    loaded = bundle.load(best.model.uri)
    if loaded.manifest.sha256 != best.model.sha256:
        raise BundleError(
            f"{best.model.uri} holds another model than the one recorded for {study}.",
            hint="Run the study again to write its model anew.",
        )
    return loaded
