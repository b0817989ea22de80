"""``preprocessing.json`` and the scripts that lie beside an exported model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tlsearch import names
from tlsearch.contracts.images import ImageInput
from tlsearch.contracts.verdict import VERDICTS
from tlsearch.images import array_files, decoding, planes
from tlsearch.models.export.inference_graph import outputs_of, picture_input
from tlsearch.models.model import Model

SIDECAR = "preprocessing.json"
SCRIPTS = Path(__file__).parent / "carried"
CARRIED = "predict.py"


def described(model: Model, *, inside: bool, verdicts: bool = True) -> dict[str, Any]:
    """How an image file becomes the input, and what comes out.

    Args:
        model: the model.
        inside: whether scaling and normalizing is a part of the exported graph.
        verdicts: whether the format can hold what verdicts are told by.
    """
    inputs = picture_input(model)
    size, count = inputs.size, inputs.channels
    given = (
        {"name": "images", "dtype": inputs.dtype, "layout": "NHWC", "shape": ["batch", size, size, count]}
        if inside
        else {"name": "pixels", "dtype": "float32", "layout": "NCHW", "shape": ["batch", count, size, size]}
    )
    rest = f"divide by {inputs.top}, subtract mean, divide by std"
    rest = "the graph scales and normalizes" if inside else rest
    return {
        "classes": list(model.classes),
        "size": size,
        "channels": count,
        "bits": inputs.bits,
        "crop": inputs.crop,
        "interpolation": inputs.interpolation,
        "resize": inputs.resize,
        "fill": list(inputs.fill),
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        "ranges": {kind: list(ends) for kind, ends in inputs.ranges.items()},
        "inside": inside,
        "input": given,
        "outputs": outputs_of(model) if verdicts else list(model.task.outputs),
        "verdicts": list(VERDICTS),
        "probabilities": model.task.probabilities,
        **model.task.beside(model.target_spec, model.manifest.calibration),
        "temperature": model.temperature,
        "steps": [
            *_read_as(inputs),
            *_squared(inputs),
            rest,
            model.task.meaning,
        ],
    }


def _read_as(inputs: ImageInput) -> list[str]:
    """What is read of a picture, in words."""
    if inputs.channels == 3:
        read = "first frame, upright by EXIF, RGB, transparency on white"
    else:
        read = "grey" if inputs.channels == 1 else f"all {inputs.channels} channels, in the file's order"
    return [
        read,
        f"deeper pixels scaled to {inputs.bits} bits by the range of their kind, what lies outside clipped",
    ]


def _squared(inputs: ImageInput) -> list[str]:
    """How a picture becomes a square, in words."""
    by = f"by Pillow's {inputs.interpolation} (antialiased)"
    if inputs.resize == "squash":
        return [f"resize to size x size {by}, whatever the ratio of the sides"]
    if inputs.resize == "pad":
        return [f"resize the longer side to size {by}", "put bars of the colour fill around it, size x size"]
    return [f"resize the shorter side to size / crop {by}", "cut out the centre, size x size"]


def carry(folder: Path, how: dict[str, Any], script: str) -> str:
    """Put the description and the scripts into a folder; returns the name of the script that predicts."""
    text = json.dumps(how, indent=2, ensure_ascii=False)
    (folder / SIDECAR).write_text(text + "\n", encoding="utf-8")
    for module in (array_files, decoding, planes):
        code = Path(str(module.__file__)).read_text(encoding="utf-8")
        # There they lie beside each other, without a package.
        (folder / f"{module.__name__.rpartition('.')[2]}.py").write_text(
            code.replace("from tlsearch.images import", "import"), encoding="utf-8"
        )
    shutil.copyfile(names.__file__, folder / "names.py")
    shutil.copyfile(SCRIPTS / "preprocess.py", folder / "preprocess.py")
    shutil.copyfile(SCRIPTS / script, folder / CARRIED)
    return script
