"""Exports of a model: written to a draft, tried, put into place; whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlsearch.counts import plural
from tlsearch.errors import ExportError, UnknownNameError, did_you_mean
from tlsearch.files import refuse_taken
from tlsearch.models.export import as_huggingface, as_onnx, as_timm, as_torch
from tlsearch.models.export.check import Trial, check_runs, files, try_out
from tlsearch.models.export.inference_graph import Options, picture_input
from tlsearch.models.export.preprocessing_config import SIDECAR
from tlsearch.models.export.smaller import FLOAT32, Smaller, make_smaller
from tlsearch.models.model import Model

Writer = Callable[[Model, Path, Options], str]
WRITERS: Mapping[str, Writer] = {
    "huggingface": as_huggingface.write,
    "onnx": as_onnx.write,
    "timm": as_timm.write,
    "torch": as_torch.write,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that predicts as the model does.

    Attributes:
        format: its name.
        folder: where it lies.
        files: names in it.
        bytes: of all files.
        checked: what it was tried on.
        smaller: what another precision than 32-bit floats costs and gains; None without one.
    """

    format: str
    folder: Path
    files: tuple[str, ...]
    bytes: int
    checked: Trial
    smaller: Smaller | None = None


def export(
    model: Model,
    place: Path,
    formats: Sequence[str],
    *,
    options: Options | None = None,
    items: Sequence[object] = (),
    source: str = "given pictures",
    overwrite: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> list[Exported]:
    """Write a model in other formats and try each from the bytes of pictures.

    Args:
        model: the model.
        place: folder of the export; with several formats each gets a folder of its name in it.
        formats: keys of `WRITERS`.
        options: how.
        items: pictures to try it on: paths, file contents or arrays. Noise is made where there are none.
        source: what they are, for the record.
        overwrite: whether what is at the place already may go.
        told: gets a line for each step.

    Raises:
        UnknownNameError: no such format.
        InputError: the place is taken, or the model doesn't fit a format.
        ExportError: a format can't hold the model, or what was written predicts otherwise; nothing is left
            of it.
    """
    places = check_request(place, formats, overwrite=overwrite)
    inputs = picture_input(model)
    done = []
    with files(items, inputs) as (pictures, kind):
        for name, folder in places.items():
            told(f"{name}: writing")
            kept = source if kind == "given pictures" else kind
            done.append(_export(model, folder, name, options or Options(), pictures, kept, told))
    return done


def check_request(place: Path, formats: Sequence[str], *, overwrite: bool) -> dict[str, Path]:
    """Where each format goes, in the order asked for; before anything is loaded.

    Raises:
        UnknownNameError: no such format.
        InputError: the place is taken.
    """
    wanted = list(dict.fromkeys(formats))
    for name in wanted:
        if name not in WRITERS:
            raise UnknownNameError(
                f'There is no format "{name}". {did_you_mean(name, WRITERS)}'.rstrip(),
                hint=f"Formats: {', '.join(WRITERS)}.",
            )
    places = {name: place / name if len(wanted) > 1 else place for name in wanted}
    for folder in places.values():
        refuse_taken(
            folder, marker=SIDECAR, earlier="an earlier export", what="an export", overwrite=overwrite
        )
    return places


def _export(
    model: Model,
    folder: Path,
    name: str,
    options: Options,
    pictures: Sequence[Path],
    source: str,
    told: Callable[[str], None],
) -> Exported:
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.draft")
    try:
        draft.mkdir(parents=True)
        script = WRITERS[name](model, draft, options)
        told(f"{name}: predicting {plural(len(pictures), 'file')} in a fresh process")
        checked = try_out(draft, script, model, pictures, source)
        smaller = None
        if name == "onnx" and options.precision != FLOAT32:
            # The graph is right, as was just seen; now it is made smaller, and its losses are counted.
            told(f"{name}: converting to {options.precision} and comparing scores with float32")
            smaller = make_smaller(model, draft, options)
            check_runs(draft, model, pictures)
        shutil.rmtree(draft / "__pycache__", ignore_errors=True)
        if folder.is_dir():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        raise ExportError(f"{folder} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    return Exported(
        format=name,
        folder=folder,
        files=tuple(str(path.relative_to(folder)) for path in written),
        bytes=sum(path.stat().st_size for path in written),
        checked=checked,
        smaller=smaller,
    )
