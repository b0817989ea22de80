"""Studies whose models say what they don't know: searched, predicted, scored, exported."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tlsearch
from tests.one_process import one_process, verify_here
from tlsearch import registry
from tlsearch.cli.app import app
from tlsearch.contracts.verdict import VERDICTS
from tlsearch.errors import DataError, InputError
from tlsearch.models import bundle
from tlsearch.models.evaluation import evaluate
from tlsearch.models.export.write import export
from tlsearch.models.model import Model

KINDS = {"grey": {"outsiders": 0.05}, "colours": {"outsiders": 0.05}}
PLAIN = {"outsiders": 0.0, "unsure": 0.0}
COLOURS = {
    "grey": [[90], [160]],
    "plain": [[90], [160]],
    "colours": [[220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40], [40, 220, 220], [220, 40, 220]],
}


def pictures(folder: Path, kind: str) -> Path:
    """Two classes of dark or bright grey, or six hues: flat but for noise, which blurs them a little."""
    rng = np.random.default_rng(0)
    for at, colour in enumerate(COLOURS[kind]):
        place = folder / kind / f"class{at}"
        place.mkdir(parents=True)
        for number in range(30):
            pixels = np.array(colour) + rng.normal(0, 20, len(colour)) + rng.normal(0, 20, (16, 16, 1))
            image = np.clip(pixels, 0, 255).astype(np.uint8)
            Image.fromarray(image[..., 0] if len(colour) == 1 else image).save(place / f"{number}.png")
    return folder / kind


def strange(folder: Path) -> Path:
    """Stripes, which no class has."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for number in range(12):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:: 2 + number % 3] = rng.integers(200, 256, 3)
        pixels[:, ::2, number % 3] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doubts")
    tiny = str(Path(__file__).parents[1] / "tiny")
    sys.path.append(tiny)
    registry.forget()
    strange(folder / "strange")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLSEARCH_CACHE", str(folder / "cache"))
        for kind, abstain in {**KINDS, "plain": PLAIN}.items():
            data = {"source": "folder", "path": str(pictures(folder, kind))}
            study = {
                "study": kind,
                "data": {**data, "split": {"val": 0.3, "test": 0.2}},
                "backbones": ["tiny/net"],
                "strategies": ["linear_probe", "fine_tune"],
                "budget": {"trials": 4, "epochs": 2},
                "search": {"finalists": 1, "confirm_seeds": 0, "members": 2},
                "abstain": abstain,
            }
            with one_process(verify=verify_here), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tlsearch.run(study, db=f"sqlite:///{folder}/s.db", artifacts=folder / "artifacts")
        yield folder
    sys.path.remove(tiny)
    registry.forget()


def model_of(folder: Path, kind: str) -> Model:
    with tlsearch.open(f"sqlite:///{folder}/s.db") as studies:
        return bundle.load(studies.best(kind).model.uri)


def others(folder: Path) -> list[Path]:
    return sorted((folder / "strange").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_refitted_model_knows_its_own_kind_and_what_is_strange(searched, kind):
    model = model_of(searched, kind)
    known = model.manifest.calibration["abstention"]
    assert "val" in model.manifest.trained_on
    assert known["candidates"]["items"] == known["outsiders"]["items"] > 10
    assert known["test"]["items"] > 5
    own = list(model.describe(sorted((searched / kind).rglob("*.png"))))
    assert np.mean([one.verdict == "none of these" for one in own]) < 0.15
    assert all(one.label in one.candidates for one in own)
    assert {one.verdict for one in own} <= set(VERDICTS)
    for one in own:
        assert (one.verdict == "none of these") == (one.distance > 1)
    assert np.mean([one.verdict == "none of these" for one in model.describe(others(searched))]) > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_the_onnx_export_gives_the_same_verdicts(searched, kind, tmp_path):
    import onnxruntime

    model = model_of(searched, kind)
    items = [*sorted((searched / kind).rglob("*.png"))[::9], *others(searched)[:6]]
    export(model, tmp_path, ["onnx"], items=items)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    how = json.loads((tmp_path / "preprocessing.json").read_text())
    assert how["outputs"] == ["logits", "probabilities", "verdict", "distance"]
    pixels = np.stack([model.encode(item) for item in items]).transpose(0, 2, 3, 1)
    _, _, verdicts, distances = session.run(None, {"images": pixels})
    told = list(model.describe(items))
    np.testing.assert_allclose(distances, [one.distance for one in told], rtol=1e-2, atol=1e-3)
    assert [VERDICTS[at] for at in verdicts] == [one.verdict for one in told]


def test_outsiders_are_measured_from_the_command_line(searched):
    found = evaluate(model_of(searched, "grey"), searched / "grey", outsiders=others(searched))
    assert found.outsiders["auroc"] > 0.9
    assert found.outsiders["accepted_at_95"] < 0.3
    assert sum(found.abstention["verdicts"].values()) == pytest.approx(1)
    words = ["evaluate", "grey", str(searched / "grey"), "--outsiders", str(searched / "strange")]
    told = CliRunner().invoke(app, [*words, "--db", f"sqlite:///{searched}/s.db"])
    assert told.exit_code == 0, told.output
    assert "AUROC" in told.output
    assert "called none of these" in told.output


def test_a_bundle_of_before_predicts_and_says_why_it_gives_no_verdict(searched):
    model = model_of(searched, "grey")
    old = Model(model.network, model.inputs, replace(model.manifest, calibration={}), model.folder)
    (one,) = old.describe([next((searched / "grey").rglob("*.png"))])
    assert (one.verdict, one.candidates, one.distance) == (None, None, None)
    assert old.silent == "it was made by an older tlsearch, without verdicts"
    with pytest.raises(DataError, match=r"can't tell outsiders .* older tlsearch"):
        evaluate(old, searched / "grey", outsiders=others(searched))


def test_a_study_may_ask_for_no_verdicts(searched):
    model = model_of(searched, "plain")
    assert model.familiar is None
    assert model.silent == ""
    (one,) = model.describe([next((searched / "plain").rglob("*.png"))])
    assert (one.verdict, one.candidates, one.distance) == (None, None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_explained_in_pictures(searched, kind, tmp_path):
    words = ["predict", kind, str(searched / kind / "class1"), "--db", f"sqlite:///{searched}/s.db"]
    told = CliRunner().invoke(app, [*words, "--explain", "--save", str(tmp_path / "seen")])
    assert told.exit_code == 0, told.output
    written = sorted((tmp_path / "seen").glob("0*.jpg"))
    assert len(written) == 30
    with Image.open(written[0]) as image:
        assert image.width > 1.9 * (image.height - 40)  # the picture, and beside it where it looked
    with pytest.raises(InputError, match="--explain draws pictures"):
        CliRunner().invoke(app, [*words, "--explain"], catch_exceptions=False)
