"""``export``: the best model in the formats of others."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tlsearch.cli import options, output
from tlsearch.cli.inference import StudyOrBundle, model_of, say_silent
from tlsearch.counts import plural
from tlsearch.errors import InputError

if TYPE_CHECKING:
    from tlsearch.models.export.inference_graph import Options
    from tlsearch.models.export.smaller import Smaller
    from tlsearch.models.export.write import Exported
    from tlsearch.models.model import Model

Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Folder to write to; each of several formats gets a subfolder."
    ),
]
Formats = Annotated[
    list[str],
    typer.Option("--format", "-f", help="timm, onnx, torch or huggingface; may be repeated."),
]
Preprocess = Annotated[
    str,
    typer.Option(
        metavar="inside|beside",
        help="ONNX and torch: the graph normalizes uint8 pixels itself (inside), or takes float32 that were "
        "prepared as preprocessing.json says (beside).",
    ),
]
Opset = Annotated[int, typer.Option(min=18, max=23, help="ONNX opset.")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="float32|float16|int8",
        help="ONNX: write a smaller graph, and compare its scores on validation and test with float32.",
    ),
]
MaxDrop = Annotated[
    float,
    typer.Option(min=0, help="With --precision: how much worse the metric may become on validation."),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        help="Images to check the export on; by default the study's validation images, or random noise."
    ),
]
Trial = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Export this trial instead of the study's model, uncalibrated, if its weights were kept.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")]
Push = Annotated[
    str | None,
    typer.Option(
        metavar="REPO",
        help="Upload the huggingface export to this repository of the hub; a new one is private.",
        show_default=False,
    ),
]
Public = Annotated[bool, typer.Option("--public", help="With --push: everybody may read a new repository.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    study: StudyOrBundle,
    folder: Output,
    formats: Formats,
    preprocess: Preprocess = "inside",
    opset: Opset = 18,
    precision: Precision = "float32",
    max_drop: MaxDrop = 0.01,
    images: Images = None,
    trial: Trial = None,
    overwrite: Overwrite = False,
    push: Push = None,
    public: Public = False,
    db: options.Database = None,
    json: options.Json = False,
) -> None:
    """Write the best model as timm, ONNX, torch or Hugging Face.

    Each export is tried right after writing: a process that can't import tlsearch predicts image files with
    it, and must agree with the model. If it doesn't, nothing is left and the exit code is 1.
    """
    from tlsearch.models.export.inference_graph import Options, parse_preprocess
    from tlsearch.models.export.write import check_request
    from tlsearch.models.export.write import export as write
    from tlsearch.reports.samples import held_out

    how = Options(inside=parse_preprocess(preprocess), opset=opset, most=max_drop)
    _check_precision(precision, formats)
    places = check_request(folder, formats, overwrite=overwrite)
    _check_push(push, formats, public=public)
    with _chosen(study, db, trial) as model:
        if {"timm", "huggingface"} & set(formats):
            _check_timm(model, study, folder, formats, db)
        _say_of_verdicts(model, formats)
        items, source = held_out(study, options.database(db), model, given=images or [], told=output.say)
        if precision != "float32":
            how = _smaller(how, precision, study, db)
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
    commit = _push(places["huggingface"], push, public=public) if push else None
    if json:
        output.print_json({"exports": done, "commit": commit} if push else done)
        return
    for one in done:
        _tell_export(one)
    if commit:
        print(f"pushed to {push}: {commit}")


def _tell_export(one: Exported) -> None:
    """What was written and how it was tried."""
    tried = one.checked
    output.tell(
        f"{one.folder}: {', '.join(one.files)} ({one.bytes / 1e6:.1f} MB); agrees with the model on "
        f"{plural(tried.pictures, 'image')} ({tried.source}), probabilities within {tried.difference:.1g}"
        + (" before it was made smaller" if one.smaller else "")
    )
    if one.smaller:
        _tell_smaller(one.smaller)


def _check_precision(precision: str, formats: Sequence[str]) -> None:
    """Refuse a precision that can't be, before anything is loaded."""
    from tlsearch.models.export.smaller import FLOAT32, parse_precision

    if parse_precision(precision) != FLOAT32 and "onnx" not in formats:
        raise InputError(f"--precision {precision} is for ONNX.", hint="Add --format onnx.")


def _smaller(how: Options, precision: str, study: str, db: str | None) -> Options:
    """The options with a precision and the study's items that it takes."""
    from tlsearch.models.export.smaller import CALIBRATION, HINT, INT8, NO_ITEMS
    from tlsearch.reports.samples import material

    found = material(study, options.database(db), training=CALIBRATION)
    if precision == INT8 and not found.training:
        raise InputError(NO_ITEMS, hint=HINT)
    if not found.splits:
        output.say("A bundle comes without data: the loss of accuracy by float16 isn't measured.")
    return replace(how, precision=precision, material=found)


def _tell_smaller(found: Smaller) -> None:
    """Size, latency and scores beside those of 32-bit floats."""
    precision, plain = found.precision, "float32"
    rows: list[list[Any]] = [
        ["megabytes", *(f"{size / 1e6:.2f}" for size in found.bytes), ""],
        ["milliseconds per image", *(f"{took:.2f}" for took in found.milliseconds), ""],
    ]
    for split, scores in found.scores.items():
        same = f"{scores['same']:.1%} of {plural(int(scores['items']), 'image')} get the same answer"
        rows.append([f"{split} {found.metric}", f"{scores[plain]:.4f}", f"{scores[precision]:.4f}", same])
    output.print_table(["", plain, precision, " "], rows, right=[plain, precision])


def _say_of_verdicts(model: Model, formats: Sequence[str]) -> None:
    """Where a format can't hold what the model says of its own doubts, or the model says nothing of them."""
    say_silent(model)
    if model.familiar is not None and "timm" in formats:
        output.say('timm: a timm model can\'t answer "unsure" or "none of these"; ONNX and torch can.')


def _check_push(repository: str | None, formats: Sequence[str], *, public: bool) -> None:
    """Refuse a push that can't be, before anything is written."""
    if repository is None:
        if public:
            raise InputError("--public goes with --push REPO.")
        return
    if "huggingface" not in formats:
        raise InputError("--push uploads the huggingface export.", hint="Add --format huggingface.")
    from tlsearch.models.export import push

    push.check(repository)


def _push(folder: Path, repository: str, *, public: bool) -> str:
    from tlsearch.models.export import push

    output.say(f"huggingface: uploading to {repository}")
    return push.push(folder, repository, public=public)


@contextlib.contextmanager
def _chosen(study: str, db: str | None, trial: int | None) -> Iterator[Model]:
    """The study's model, or the trial that was asked for instead."""
    winner = model_of(study, db)
    if trial is None:
        yield winner
        return
    if _is_bundle(study):
        raise InputError("A bundle has no trials.", hint="--trial goes with the name of a study.")
    from tlsearch.files import scratch
    from tlsearch.reports.trial_models import model_of_trial

    with scratch("trial") as made:
        place = Path(made) / "bundle"
        model = model_of_trial(options.database(db), study, trial, winner=winner, folder=place)
        output.say(f"Trial {trial} isn't the model of {study}: it is not verified, averaged or calibrated.")
        yield model


def _check_timm(model: Model, study: str, folder: Path, formats: Sequence[str], db: str | None) -> None:
    """Where timm can't hold the model, say which trial it can hold, before anything is written.

    Raises:
        InputError: timm was asked for.
    """
    from tlsearch.models.export import as_timm

    try:
        as_timm.merged(model)
    except InputError as error:
        hint = _for_timm(model, study, folder, formats, db) or error.hint
        if "timm" in formats:
            raise InputError(error.message, hint=hint) from None
        output.say(
            f"huggingface: timm can't load this model, so a bundle is written. {error.message}\n{hint}"
        )


def _for_timm(model: Model, study: str, folder: Path, formats: Sequence[str], db: str | None) -> str:
    if _is_bundle(study):
        return ""
    from tlsearch.reports.trial_models import best_for_timm

    found = best_for_timm(options.database(db), study, winner=model)
    if found is None:
        return ""
    words = ["tlsearch", "export", study, *(word for name in formats for word in ("--format", name))]
    words += ["-o", str(folder), "--trial", str(found.number), *(["--db", db] if db else [])]
    return (
        f"The best trial that timm can load is {found.number} ({found.strategy}, "
        f"{output.show(found.value)} on validation): `{shlex.join(words)}`"
    )


def _is_bundle(study: str) -> bool:
    from tlsearch.models import bundle

    return (Path(study) / bundle.MANIFEST).is_file()
