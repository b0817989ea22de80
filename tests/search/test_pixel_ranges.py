"""Pictures of a physical range are searched and scored as their 8-bit copies are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import tlsearch
from tests.one_process import one_process, verify_here
from tlsearch.models.evaluation import evaluate
from tlsearch.models.model import Model

LOW, HIGH = 50.0, 278.0


def stripes(folder: Path) -> tuple[Path, Path]:
    """Stripes, on grounds dark to light, as float TIFFs, half of them below 255; and 8-bit copies."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    for name, phase in (("across", y), ("down", x)):
        for kind in ("float", "eight"):
            (folder / kind / name).mkdir(parents=True)
        for number in range(30):
            ground = np.interp(number, (0, 29), (LOW + 50, HIGH - 50))
            values = (
                ground + 45 * np.sin(phase * 1.6 + rng.uniform(0, 6)) + rng.normal(0, 2, (16, 16))
            ).clip(LOW, HIGH)
            values[0, :2] = LOW, HIGH if number % 2 else 250
            Image.fromarray(values.astype(np.float32)).save(folder / "float" / name / f"{number}.tif")
            scaled = ((values.astype(np.float32) - LOW) * (255 / (HIGH - LOW))).round().astype(np.uint8)
            Image.fromarray(scaled).save(folder / "eight" / name / f"{number}.png")
    return folder / "float", folder / "eight"


def searched(folder: Path, data: Path) -> Model:
    study = {
        "study": data.name,
        "data": {"source": "folder", "path": str(data), "split": {"val": 0.3, "test": 0.2}},
        "backbones": ["tiny/net"],
        "strategies": ["feature_copy"],
        "budget": {"trials": 2},
        "search": {"finalists": 1, "confirm_seeds": 1, "refit": False},
    }
    with one_process(verify=verify_here):
        result = tlsearch.run(study, db=f"sqlite:///{folder}/s.db", artifacts=folder / "artifacts")
    assert result.model is not None
    return tlsearch.load(result.model.uri)


def test_floats_of_one_set_are_as_good_as_their_8_bit_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("TLSEARCH_CACHE", str(tmp_path / "cache"))
    floats, eights = stripes(tmp_path / "data")
    model, other = searched(tmp_path, floats), searched(tmp_path, eights)
    assert model.inputs.ranges == {"float": (LOW, HIGH)}
    assert other.inputs.ranges == {}
    files = {
        kind: sorted(folder.rglob("*.*"), key=lambda file: (file.parent.name, file.stem))
        for kind, folder in (("float", floats), ("eight", eights))
    }
    for deep, copy in zip(files["float"], files["eight"], strict=True):
        assert np.array_equal(model.encode(deep), other.encode(copy))
    accuracy = evaluate(model, floats).metrics["accuracy"]
    assert accuracy == evaluate(model, eights).metrics["accuracy"]
