"""Smaller and quicker ONNX graphs: 8-bit integers or 16-bit floats, and what they cost in accuracy.

ONNX Runtime's static quantization: weights per channel and activations as 8-bit integers, with ranges found
on training items (Jacob et al. 2018, arXiv:1712.05877). What comes before and after the network (pixels,
probabilities, distances) stays as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tlsearch.counts import plural
from tlsearch.errors import ExportError, InputError
from tlsearch.files import scratch
from tlsearch.models.export.inference_graph import Material, Options
from tlsearch.models.export.preprocessing_config import SIDECAR, described
from tlsearch.models.model import Model

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"
PRECISIONS = (FLOAT32, FLOAT16, INT8)
CALIBRATION = 128
"""Training items whose activations set the ranges."""
QUANTIZED = ("Conv", "MatMul", "Gemm")
"""Operations whose weights are most of a network."""
DROP = 0.01
"""By how much the study's metric may get worse on validation items, where nothing else is asked for."""
NO_ITEMS = "int8 needs training images of the study to set its value ranges, and there are none."
HINT = "Name the study instead of a bundle, where its data is; --precision float16 needs none."
AT_ONCE = 32
RUNS, SECONDS = 30, 3.0
"""A latency is the fastest of so many runs, or of as many as this time allows: others may be at work here."""


@dataclass(frozen=True, slots=True)
class Smaller:
    """A smaller graph beside the one in 32-bit floats.

    Attributes:
        precision: of the smaller one.
        metric: what ``scores`` are of.
        scores: by split: of the float graph, of the smaller one, the share of items of the same answer, and
            how many items.
        bytes: of the float graph's file, and of the smaller one's.
        milliseconds: for one image on one core of this machine, of both.
    """

    precision: str
    metric: str
    scores: Mapping[str, Mapping[str, float]]
    bytes: tuple[int, int]
    milliseconds: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``preprocessing.json``."""
        return {
            "precision": self.precision,
            "metric": self.metric,
            "scores": {split: dict(values) for split, values in self.scores.items()},
            "bytes": {FLOAT32: self.bytes[0], self.precision: self.bytes[1]},
            "milliseconds": {FLOAT32: self.milliseconds[0], self.precision: self.milliseconds[1]},
        }


def parse_precision(word: str) -> str:
    """One of `PRECISIONS`.

    Raises:
        InputError: it is none.
    """
    if word not in PRECISIONS:
        raise InputError(f'There is no precision "{word}".', hint=f"Precisions: {', '.join(PRECISIONS)}.")
    return word


def make_smaller(model: Model, folder: Path, options: Options) -> Smaller:
    """Put a smaller graph into the place of an export's in 32-bit floats, scored beside it.

    Args:
        model: that it was written from.
        folder: of the export; its description tells of the change afterwards.
        options: with another precision.

    Raises:
        InputError: there are no training items for ranges.
        ExportError: it gets worse by more than it may, or the graph can't be converted.
    """
    precision, material = options.precision, options.material or Material((), {}, "")
    if precision == INT8 and not material.training:
        raise InputError(NO_ITEMS, hint=HINT)
    graph = folder / "model.onnx"
    with scratch("precision") as place, _quiet():
        draft = Path(place) / "model.onnx"
        try:
            if precision == FLOAT16:
                _halved(graph, draft)
            else:
                _quantized(model, graph, draft, material.training, inside=options.inside)
            found = _compared(model, graph, draft, precision, material, inside=options.inside)
        except (InputError, ExportError):
            raise
        except Exception as error:  # of the converters, of a runtime that lacks an operation
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(
                f"{model.manifest.backbone} can't be written in {precision}: {reason}",
                hint="Use --precision float32.",
            ) from error
        _refuse_worse(model, found, options.most)
        _put(draft, graph, found)
    described = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    text = json.dumps({**described, "smaller": found.to_json()}, indent=2, ensure_ascii=False)
    (folder / SIDECAR).write_text(text + "\n", encoding="utf-8")
    return found


def _put(draft: Path, graph: Path, found: Smaller) -> None:
    """Replace the graph, with what it told of itself and what became of it."""
    import onnx

    known = {one.key: one.value for one in onnx.load(graph, load_external_data=False).metadata_props}
    smaller = onnx.load(draft)
    onnx.helper.set_model_props(smaller, {**known, "smaller": json.dumps(found.to_json())})
    onnx.save(smaller, graph)


def _refuse_worse(model: Model, found: Smaller, most: float) -> None:
    known = found.scores.get("val")
    if known is None:
        return
    sign = -1 if model.task.metric(found.metric).minimize else 1
    drop = sign * (known[FLOAT32] - known[found.precision])
    if drop > most:
        raise ExportError(
            f"In {found.precision}, {found.metric} on {plural(int(known['items']), 'validation image')} goes "
            f"from {known[FLOAT32]:.4f} to {known[found.precision]:.4f}: worse by more than {most:g}.",
            hint="Use --precision float16 or float32, or allow more with --max-drop.",
        )


def _halved(graph: Path, draft: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Pixels come in, and probabilities go out, as before.
    onnx.save(convert_float_to_float16(onnx.load(graph), keep_io_types=True), draft)


def _quantized(model: Model, graph: Path, draft: Path, items: Sequence[object], *, inside: bool) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = described(model, inside=inside)["input"]["name"]

    class Reader(CalibrationDataReader):
        """Batches of one, since what the calibrator keeps grows with the batch."""

        def __init__(self) -> None:
            self._batches = (batch for batch, _ in _batches(model, items, inside=inside, at_once=1))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    prepared = draft.with_name("prepared.onnx")
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    loaded = onnx.load(prepared)
    sizes = {one.name: tuple(one.dims) for one in loaded.graph.initializer}
    # The head's and the references' layers are small, and outputs come straight from them.
    ends = {len(model.target_spec.names)}
    if model.familiar is not None:
        ends.add(len(model.familiar.references.features))
    kept = [
        node.name
        for node in loaded.graph.node
        if node.op_type in ("MatMul", "Gemm") and any(ends & set(sizes.get(one, ())) for one in node.input)
    ]
    kept += _sensitive([node for node in loaded.graph.node if node.op_type == "Conv"])
    quantize_static(
        str(prepared),
        str(draft),
        Reader(),
        op_types_to_quantize=list(QUANTIZED),
        nodes_to_exclude=kept,
        per_channel=True,
        # Without this, sums of two products saturate on processors that lack VNNI.
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"CalibPercentile": 99.99},
    )


def _sensitive(convolutions: Sequence[Any]) -> list[str]:
    """Names of convolutions that stay in 32-bit floats: the first, and those of single channels (depthwise).

    They have few weights, and their outputs ranges of very unequal width: without them, digits on
    EfficientNet-Lite kept 99 of 100 answers, with them 73 (Sheng et al. 2018, arXiv:1803.08607, tell why).
    """
    groups = {
        node.name: next((one.i for one in node.attribute if one.name == "group"), 1) for node in convolutions
    }
    return [name for at, (name, group) in enumerate(groups.items()) if at == 0 or group > 1]


def _batches(
    model: Model, items: Sequence[object], *, inside: bool, at_once: int = AT_ONCE
) -> Iterator[tuple[NDArray[Any], list[int]]]:
    """What a graph takes, and positions of the items in it; broken ones are left out."""
    from tlsearch.errors import DataError

    encoded: list[NDArray[Any]] = []
    places: list[int] = []
    for at, item in enumerate(items):
        with contextlib.suppress(DataError):
            encoded.append(model.encode(item))
            places.append(at)
        if encoded and (len(encoded) == at_once or at == len(items) - 1):
            batch = np.stack(encoded)
            given = torch.from_numpy(batch)
            yield (
                (
                    np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
                    if inside
                    else model.inputs.to_model(given).contiguous().numpy()
                ),
                places,
            )
            encoded, places = [], []


def _session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _compared(
    model: Model, graph: Path, draft: Path, precision: str, material: Material, *, inside: bool
) -> Smaller:
    sessions = {FLOAT32: _session(graph), precision: _session(draft)}
    name = described(model, inside=inside)["input"]["name"]
    scores: dict[str, dict[str, float]] = {}
    for split, (items, targets) in material.splits.items():
        logits: dict[str, list[NDArray[Any]]] = {one: [] for one in sessions}
        answers: dict[str, list[Any]] = {one: [] for one in sessions}
        kept: list[int] = []
        for batch, places in _batches(model, items, inside=inside):
            kept += places
            for one, session in sessions.items():
                found = session.run(None, {name: batch})
                logits[one].append(found[0])
                answers[one] += model.task.answers(found[1], model.target_spec, model.manifest.calibration)
        if not kept:
            continue
        wanted = torch.from_numpy(model.task.encode([targets[at] for at in kept], model.target_spec))
        scored = {
            one: model.task.score(torch.from_numpy(np.concatenate(parts)), wanted, model.target_spec)[
                material.metric
            ]
            for one, parts in logits.items()
        }
        same = [one == other for one, other in zip(answers[FLOAT32], answers[precision], strict=True)]
        scores[split] = {**scored, "same": float(np.mean(same)), "items": float(len(kept))}
    example = next(_batches(model, _noise(model), inside=inside))[0]
    before, after = (_milliseconds(session, {name: example}) for session in sessions.values())
    return Smaller(
        precision=precision,
        metric=material.metric,
        scores=scores,
        bytes=(graph.stat().st_size, draft.stat().st_size),
        milliseconds=(before, after),
    )


def _noise(model: Model) -> list[object]:
    channels, size = int(model.inputs.shape[0]), int(model.inputs.shape[-1])
    return [np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)]


def _milliseconds(session: Any, given: Mapping[str, Any]) -> float:
    took: list[float] = []
    session.run(None, given)
    until = time.perf_counter() + SECONDS
    while len(took) < RUNS and (len(took) < 3 or time.perf_counter() < until):
        began = time.perf_counter()
        session.run(None, given)
        took.append(time.perf_counter() - began)
    return 1000 * min(took)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters warn of what is checked afterwards, and print how far they are."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
