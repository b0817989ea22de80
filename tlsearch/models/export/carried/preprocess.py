"""Image files as the pixels that this model was trained on, for predict.py. Needs Pillow and NumPy.

How stands in preprocessing.json beside this file; decoding.py, planes.py and array_files.py read the files,
and names.py has names fit for a terminal, as they do in tlsearch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import decoding
import names
import numpy as np
import planes
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).resolve().parent
AT_ONCE = 32


def described() -> dict[str, Any]:
    """The content of preprocessing.json."""
    document: dict[str, Any] = json.loads(beside("preprocessing.json").read_text(encoding="utf-8"))
    return document


def beside(name: str) -> Path:
    """A file that was exported with this one; where it is missing, the script ends and says so."""
    if not (HERE / name).is_file():
        _refuse(f"{HERE / name} is missing: keep the files of the export together, or export again.")
    return HERE / name


def open_rgb(path: str | Path, how: dict[str, Any]) -> Image.Image:
    """A file's first frame as upright 8-bit RGB, transparency laid on white, deep pixels scaled.

    Of other channels than RGB the first three, or the mean as grey.

    Raises:
        ValueError: it can't be decoded, or is no picture; the message names it.
    """
    try:
        if _unusual(how):
            pixels = planes.planes(Path(path), channels=how["channels"], ranges=how["ranges"], top=255)
            return planes.shown(pixels, 255)
        image: Image.Image = decoding.decode(Path(path), how["ranges"])
    except decoding.Unreadable as error:
        raise decoding.Unreadable(f"{path} {error}") from error
    return image


def square(path: str | Path, how: dict[str, Any]) -> NDArray[Any]:
    """A file's pixels (size, size, channels), resized as in training.

    Raises:
        ValueError: it can't be decoded; the message names it.
    """
    kept = {key: how[key] for key in ("size", "crop", "interpolation", "resize", "fill")}
    pixels: NDArray[Any]
    if not _unusual(how):
        pixels = decoding.square(open_rgb(path, how), **kept)
        return pixels
    top = planes.TOPS[how["bits"]]
    try:
        values = planes.planes(Path(path), channels=how["channels"], ranges=how["ranges"], top=top)
    except decoding.Unreadable as error:
        raise decoding.Unreadable(f"{path} {error}") from error
    pixels = planes.square(values, top=top, **kept)
    return pixels


def _unusual(how: dict[str, Any]) -> bool:
    return (how["channels"], how["bits"]) != (3, 8)


def batch(paths: Sequence[str | Path], how: dict[str, Any]) -> NDArray[Any]:
    """What the model takes: uint8 or uint16 (N, size, size, C), or float32 (N, C, size, size) normalized.

    Raises:
        ValueError: one of the files can't be decoded; the message names it.
    """
    pixels = np.stack([square(path, how) for path in paths])
    if how["inside"]:
        return pixels
    mean, std = np.float32(how["mean"]), np.float32(how["std"])
    scaled = (pixels.astype(np.float32) / np.float32(planes.TOPS[how["bits"]]) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def main(answers: Callable[[Sequence[str]], list[NDArray[Any]]], how: dict[str, Any]) -> None:
    """Print the class, objects or numbers of each file of the command line; with --json all that is put out.

    With --masks FOLDER masks are written there, where the model puts out such.

    A file that can't be read is told on stderr, has null in JSON, and makes the exit code 2.
    """
    words = [word for word in sys.argv[1:] if word != "--json"]
    folder = Path(words.pop(words.index("--masks") + 1)) if "--masks" in words[:-1] else None
    paths = [word for word in words if word != "--masks"]
    if not paths:
        _refuse("Usage: python predict.py IMAGE... [--json] [--masks FOLDER]")
    if folder is not None and "values" not in how:
        _refuse("--masks is for a model of masks, and this one puts out none.")
    told: list[tuple[Any, ...] | None] = []  # of each file what the model puts out, probabilities first
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        try:
            told += zip(*answers(some), strict=True)
        except decoding.Unreadable:  # the others have an answer
            told += [_alone(answers, path) for path in some]
    rows = [None if one is None else one[0] for one in told]
    if folder is not None:
        _save_masks(folder, paths, rows, how)
    if "overlap" in how:
        found = [
            None if row is None else _objects(row, path, how) for path, row in zip(paths, rows, strict=True)
        ]
        _print_objects(paths, found)
    elif "--json" in sys.argv:
        shares = [None if row is None else row.tolist() for row in rows]
        more = {
            name: [None if one is None else one[at].item() for one in told]
            for at, name in enumerate(how["outputs"][2:], start=1)
        }
        if "verdict" in more:
            more["verdict"] = [None if one is None else how["verdicts"][one] for one in more["verdict"]]
        known = {name: how[name] for name in ("thresholds", "margin", "coverage") if name in how}
        answered = {"classes": how["classes"], how["outputs"][1]: shares, **more}
        print(json.dumps({"files": paths, **answered, **known}))
    else:
        for path, one in zip(paths, told, strict=True):
            if one is not None:
                verdict = how["verdicts"][int(one[1])] if "verdict" in how["outputs"] else "sure"
                doubt = "" if verdict == "sure" else f" ({verdict})"
                print(names.printable(f"{path}: {_told(one[0], how)}{doubt}"))
    if any(row is None for row in rows):
        sys.exit(2)


def _refuse(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    sys.exit(2)


def _objects(row: NDArray[Any], path: str, how: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects among candidates (K, 6), the surest first, with boxes in the picture's own pixels."""
    sides = 2 * open_rgb(path, how).size
    kept: list[NDArray[Any]] = []
    for one in row[row[:, 5] >= how["threshold"]]:
        if not any(one[0] == other[0] and _overlap(one, other) > how["overlap"] for other in kept):
            kept.append(one)
    return [
        {
            "label": how["classes"][int(one[0])],
            "score": round(float(one[5]), 4),
            "box": [round(float(share) * side, 1) for share, side in zip(one[1:5], sides, strict=True)],
        }
        for one in kept[: how["most"]]
    ]


def _overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Intersection over union of two boxes."""
    both = float(
        np.prod(np.clip(np.minimum(one[3:5], other[3:5]) - np.maximum(one[1:3], other[1:3]), 0, None))
    )
    areas = float(np.prod(one[3:5] - one[1:3]) + np.prod(other[3:5] - other[1:3]))
    return both / max(areas - both, 1e-12)


def _print_objects(paths: Sequence[str], found: Sequence[list[dict[str, Any]] | None]) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"files": paths, "objects": found}))
        return
    for path, own in zip(paths, found, strict=True):
        if own is not None:
            told = "; ".join(f"{one['label']} {one['score']:.4f} at {one['box']}" for one in own)
            print(names.printable(f"{path}: {told or 'no object'}"))


def _save_masks(
    folder: Path, paths: Sequence[str], rows: Sequence[NDArray[Any] | None], how: dict[str, Any]
) -> None:
    """Masks as PNG files, each of its picture's size and in the values of the masks in training."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.array(how["values"], np.uint16 if max(how["values"]) > 255 else np.uint8)
    for number, (path, row) in enumerate(zip(paths, rows, strict=True)):
        if row is not None:
            mask = Image.fromarray(values[np.asarray(row).astype(np.int64)])
            size = open_rgb(path, how).size
            name = f"{number:05d}-{Path(path).stem[:90]}.png"
            mask.resize(size, Image.Resampling.NEAREST).save(folder / name)


def _told(row: NDArray[Any], how: dict[str, Any]) -> str:
    """The likeliest class, or labels, with probabilities; or all numbers, with intervals if there are."""
    if row.ndim > 1:  # a mask of class indices
        shares = [float((row == index).mean()) for index in range(len(how["classes"]))]
        named = sorted(zip(shares, how["classes"], strict=True), reverse=True)
        return ", ".join(f"{name} {100 * share:.1f}%" for share, name in named if share)
    if how["probabilities"]:
        return f"{how['classes'][int(row.argmax())]} {row.max():.4f}"
    if "thresholds" in how:
        pairs = zip(how["classes"], row.tolist(), how["thresholds"], strict=True)
        held = sorted(((share, name) for name, share, least in pairs if share >= least), reverse=True)
        return ", ".join(f"{name} {share:.4f}" for share, name in held) or "no label"
    told = []
    for at, (name, value) in enumerate(zip(how["classes"], row.tolist(), strict=True)):
        between = ""
        if "margin" in how:
            margin = how["margin"][at]
            between = f" ({value - margin:.5g} to {value + margin:.5g}, {100 * how['coverage']:.0f}%)"
        told.append(f"{name} {value:.5g}{between}")
    return ", ".join(told)


def _alone(answers: Callable[[Sequence[str]], list[NDArray[Any]]], path: str) -> tuple[Any, ...] | None:
    try:
        return tuple(one[0] for one in answers([path]))
    except decoding.Unreadable as error:
        print(names.printable(str(error)), file=sys.stderr)
        return None
