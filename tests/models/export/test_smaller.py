"""Graphs in 8-bit integers and 16-bit floats: smaller, scored beside the one in 32, refused where worse."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from tlsearch.cli.app import app
from tlsearch.errors import ExportError, InputError
from tlsearch.models.export import smaller
from tlsearch.models.export.inference_graph import Material, Options
from tlsearch.models.export.smaller import Smaller, parse_precision
from tlsearch.models.export.write import export


def pictures(count: int, *, grey: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    shape = (80, 80) if grey else (80, 80, 3)
    return [rng.integers(0, rng.integers(60, 256), shape, dtype=np.uint8) for _ in range(count)]


def material(model, *, grey: bool = False) -> Material:
    """Items whose classes are those that the model tells: the graph in 32-bit floats is always right."""
    held_out = pictures(20, grey=grey)
    return Material(pictures(12, grey=grey), {"val": (held_out, model.predict(held_out))}, "accuracy")


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.6), ("int8", 0.5)])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.slow
def test_a_smaller_graph_predicts_nearly_the_same(lite0, tmp_path, precision, share, inside):
    options = Options(
        inside=inside,
        precision=precision,
        most=1.0,
        material=material(lite0, grey=inside),
    )
    (done,) = export(lite0, tmp_path / "m", ["onnx"], options=options, items=pictures(4))
    found = done.smaller
    assert found.bytes[1] < share * found.bytes[0]
    assert found.bytes[1] == pytest.approx((tmp_path / "m" / "model.onnx").stat().st_size, rel=0.01)
    assert found.scores["val"]["float32"] == 1
    assert found.scores["val"][precision] == found.scores["val"]["same"] > 0.7
    assert found.scores["val"]["items"] == 20
    assert min(found.milliseconds) > 0
    told = json.loads((tmp_path / "m" / "preprocessing.json").read_text())["smaller"]
    assert told["precision"] == precision
    session = onnxruntime.InferenceSession(tmp_path / "m" / "model.onnx")
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["classes"]) == list(lite0.classes)
    assert json.loads(known["smaller"]) == told


@pytest.mark.slow
def test_what_gets_worse_by_more_is_refused_and_nothing_is_left(lite0, tmp_path, monkeypatch):
    worse = Smaller("int8", "accuracy", {"val": {"float32": 0.9, "int8": 0.87, "items": 100}}, (2, 1), (2, 1))
    with pytest.raises(
        ExportError, match=r"goes from 0\.9000 to 0\.8700: worse by more than 0\.01"
    ) as caught:
        smaller._refuse_worse(lite0, worse, 0.01)
    assert "--max-drop" in str(caught.value.hint)
    smaller._refuse_worse(lite0, worse, 0.05)
    loss = Smaller("int8", "log_loss", {"val": {"float32": 0.2, "int8": 0.3, "items": 100}}, (2, 1), (2, 1))
    with pytest.raises(ExportError, match="log_loss"):
        smaller._refuse_worse(lite0, loss, 0.01)
    monkeypatch.setattr(smaller, "_compared", lambda *a, **k: worse)
    options = Options(precision="float16", most=0.01, material=material(lite0))
    with pytest.raises(ExportError, match="goes from"):
        export(lite0, tmp_path / "m", ["onnx"], options=options, items=pictures(2))
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_refused(lite0, tmp_path):
    with pytest.raises(InputError, match='no precision "int4"'):
        parse_precision("int4")
    words = ["export", str(lite0.folder), "-o", str(tmp_path / "m"), "--precision", "int8"]
    with pytest.raises(InputError, match="int8 is for ONNX"):
        CliRunner().invoke(app, [*words, "--format", "torch"], catch_exceptions=False)
    with pytest.raises(InputError, match="needs training images of the study"):
        CliRunner().invoke(app, [*words, "--format", "onnx"], catch_exceptions=False)
