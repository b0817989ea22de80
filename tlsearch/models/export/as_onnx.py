"""``model.onnx``: for ONNX Runtime and everything else that reads ONNX."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlsearch.errors import ExportError, InputError
from tlsearch.models.export.inference_graph import Options, traced
from tlsearch.models.export.preprocessing_config import carry, described
from tlsearch.models.model import Model

MOST_IN_ONE_FILE = 1_900_000_000
"""Bytes; a protobuf message ends at 2 GiB. Weights of larger models go into a file beside the graph."""
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


def write(model: Model, folder: Path, options: Options) -> str:
    """Fill a folder; returns the name of the script that predicts with it.

    Raises:
        InputError: onnx isn't installed.
        ExportError: an operation has no counterpart in ONNX.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"ONNX needs a package that isn't installed: {error.name}.",
            hint="pip install 'tlsearch[export]'",
        ) from None
    how = described(model, inside=options.inside)
    program = _plain(traced(model, options))
    with _quiet():
        try:
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[how["input"]["name"]],
                output_names=how["outputs"],
                opset_version=options.opset,
            )
        except Exception as error:
            raise ExportError(
                f"{model.manifest.backbone} with {model.manifest.strategy} can't be written as ONNX: "
                f"{_cause(error)}",
                hint="Try another format: --format torch.",
            ) from error
        _name_batch(written.model.graph)
        written.model.metadata_props.update(_metadata(model, how))
        written.save(folder / "model.onnx", external_data=model.manifest.bytes > MOST_IN_ONE_FILE)
    return carry(folder, how, "predict_onnx.py")


def _name_batch(graph: Any) -> None:
    """Call the open axis ``batch`` all over a graph; torch.export gives it a name such as ``s34``."""
    (given,) = graph.inputs
    own = given.shape[0].value
    if not isinstance(own, str):
        raise ExportError("The graph takes one batch size only.", hint="Try another format: --format torch.")
    values = [*graph.inputs, *graph.outputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            for axis, length in enumerate(value.shape):
                if getattr(length, "value", length) == own:
                    value.shape[axis] = "batch"


def _metadata(model: Model, how: dict[str, Any]) -> dict[str, str]:
    """What the file tells of itself, for those who get nothing but the file."""
    known = model.manifest.provenance
    return {
        "classes": json.dumps(how["classes"], ensure_ascii=False),
        "preprocessing": json.dumps({key: value for key, value in how.items() if key != "classes"}),
        "study": str(known.get("study", "")),
        "trial": str(known.get("trial", "")),
        "bundle_sha256": model.manifest.sha256,
    }


def _plain(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without operations that the exporter has no counterpart for and we know one."""
    cdist = torch.ops.aten.cdist.default
    if all(node.target is not cdist for node in program.graph.nodes):
        return program
    return program.run_decompositions({cdist: _distances})


def _distances(first: Tensor, second: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Euclidean distances (N, M) of rows; in double precision nothing is lost to the expanded square."""
    if p != 2:
        raise ValueError(f"there is no ONNX operation for distances of norm {p}")
    a, b = first.double(), second.double()
    squares = (a * a).sum(dim=1, keepdim=True) + (b * b).sum(dim=1) - 2 * (a @ b.T)
    return squares.clamp_min(0).sqrt().to(first.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of its own internals; what matters is checked afterwards."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
