"""Exports, read by others: processes that have onnxruntime, torch or timm and can't import tlsearch."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from tlsearch import names
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import BundleError, ExportError, InputError, UnknownNameError
from tlsearch.images import decoding
from tlsearch.models import bundle
from tlsearch.models.export import as_timm, write
from tlsearch.models.export.card import card
from tlsearch.models.export.check import try_out
from tlsearch.models.export.inference_graph import Options
from tlsearch.models.model import Model

ONNX_READER = """
import json, sys
for name in ("tlsearch", "torch", "timm"):
    sys.modules[name] = None
import numpy as np, onnxruntime
from PIL import Image
folder, *paths = sys.argv[1:]
how = json.load(open(folder + "/preprocessing.json"))
session = onnxruntime.InferenceSession(folder + "/model.onnx")
(given,) = session.get_inputs()
assert (given.name, given.shape[1:]) == (how["input"]["name"], how["input"]["shape"][1:])
assert given.shape[0] == "batch", given.shape
assert all(put_out.shape[0] == "batch" for put_out in session.get_outputs())
meta = session.get_modelmeta().custom_metadata_map
assert json.loads(meta["classes"]) == how["classes"]
rows = []
for path in paths:  # square pictures of any size: nothing to cut
    size = how["size"]
    method = Image.Resampling[how["interpolation"].upper()]
    pixels = np.asarray(Image.open(path).convert("RGB").resize((size, size), method))[None]
    if not how["inside"]:
        pixels = (pixels.astype("float32") / 255 - np.float32(how["mean"])) / np.float32(how["std"])
        pixels = pixels.transpose(0, 3, 1, 2).astype("float32")
    logits, shares = session.run(None, {given.name: pixels})
    exponentials = np.exp(logits - logits.max())
    assert np.allclose(exponentials / exponentials.sum(), shares, atol=1e-5)
    rows.append(shares[0].tolist())
print(json.dumps(rows))
"""
TIMM_READER = """
import json, sys
sys.modules["tlsearch"] = None
import timm, torch
from PIL import Image
folder, *paths = sys.argv[1:]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    shares = model(batch).softmax(dim=1).tolist()
print(json.dumps({"labels": model.pretrained_cfg["label_names"], "shares": shares}))
"""


def run(code: str, *arguments: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def described_of(model: Model) -> dict[str, object]:
    """What the writer of a bundle is told of a model."""
    known = json.loads((model.folder / bundle.MANIFEST).read_text())
    return {
        key: value for key, value in known.items() if key not in ("sha256", "bytes", "format", "backbone")
    }


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> list[Path]:
    from PIL import Image

    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(3)
    for number, size in enumerate((16, 40, 64, 97, 128, 30)):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


# ------------------------------------------------------------------------------------ ONNX


@pytest.mark.parametrize("kind", ["joint_training", "knn", "lda", "svm", "ranpac"])
def test_onnxruntime_alone_predicts_the_same_from_files(made, kind, squares, photos, tmp_path):
    model = made(kind)
    inside = kind != "lda"
    (done,) = write.export(
        model, tmp_path / "out", ["onnx"], options=Options(inside=inside), items=photos, source="photos"
    )
    assert (done.checked.pictures, done.checked.source) == (len(photos), "photos")
    assert done.checked.difference < 1e-3
    moved = Path(shutil.move(done.folder, tmp_path / "elsewhere"))
    assert sorted(path.name for path in moved.iterdir()) == sorted(done.files)
    rows = np.array(json.loads(run(ONNX_READER, moved, *squares)))
    expected = model.predict_proba(squares)
    assert (rows.argmax(axis=1) == expected.argmax(axis=1)).all()
    np.testing.assert_allclose(rows, expected, atol=1e-3)
    assert np.ptp(expected, axis=0).max() > 1e-3, "pictures that all look the same show nothing"


def test_the_script_in_the_folder_reads_any_kind_of_file(made, photos, tmp_path):
    model = made("fine_tune")
    write.export(model, tmp_path / "out", ["onnx"], items=photos)
    block = "import sys, runpy; sys.modules['tlsearch'] = None; sys.path.insert(0, sys.argv[1])\n"
    block += "path = sys.argv.pop(1) + '/predict.py'; runpy.run_path(path, run_name='__main__')"
    told = json.loads(run(block, tmp_path / "out", *photos, "--json", cwd=tmp_path))
    assert told["classes"] == list(model.classes)
    assert told["files"] == list(map(str, photos))
    np.testing.assert_allclose(told["probabilities"], model.predict_proba(photos), atol=1e-5)
    lines = run(block, tmp_path / "out", *photos, cwd=tmp_path).splitlines()
    labels = [line.rpartition(": ")[2].split()[0] for line in lines]
    assert labels == model.predict(photos)
    odd = tmp_path / "\x1b]0;owned\x07.png"
    shutil.copyfile(photos[0], odd)
    assert (
        run(block, tmp_path / "out", odd, cwd=tmp_path).rpartition("/")[2].startswith("\\x1b]0;owned\\x07.")
    )


def test_the_carried_preprocessing_is_that_of_training_to_the_pixel(photos, monkeypatch):
    monkeypatch.syspath_prepend(Path(as_timm.__file__).parent / "carried")
    for carried in (decoding, names):
        monkeypatch.syspath_prepend(Path(carried.__file__).parent)
    import preprocess

    ways = ((1.0, "bicubic"), (0.875, "bilinear"), (1.0, "nearest"))
    for (crop, interpolation), resize in itertools.product(ways, decoding.RESIZES):
        inputs = ImageInput(24, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), interpolation, crop, resize=resize)
        inputs = inputs.suited([inputs.survey(path) for path in photos])
        usual = {"ranges": {}, "channels": 3, "bits": 8}
        how = {**usual, **inputs.to_json(), "resize": resize, "fill": inputs.fill, "inside": False}
        for path in photos:
            pixels = preprocess.square(path, how)
            assert np.array_equal(pixels.transpose(2, 0, 1), inputs.encode(path)), path.name
        encoded = torch.from_numpy(np.stack([inputs.encode(path) for path in photos]))
        expected = inputs.to_model(encoded).numpy()
        np.testing.assert_allclose(preprocess.batch(photos, how), expected, atol=1e-6)


@pytest.mark.slow
def test_files_that_cannot_be_read_are_named_and_the_others_answered(made, photos, tmp_path):
    write.export(made("fine_tune"), tmp_path / "out", ["torch"], items=photos[:2])
    postscript, bomb = tmp_path / "innocent.jpg", tmp_path / "bomb.png"
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    bomb.write_bytes(b"P6 20000 20000 255\n")
    words = [sys.executable, tmp_path / "out" / "predict.py", photos[0], postscript, bomb, photos[1]]
    done = subprocess.run([*map(str, words), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{postscript} is no known picture format" in done.stderr
    assert f"{bomb} has more than the" in done.stderr
    shares = json.loads(done.stdout)["probabilities"]
    assert shares[1:3] == [None, None]
    expected = made("fine_tune").predict_proba([photos[0], photos[1]])
    np.testing.assert_allclose([shares[0], shares[3]], expected, atol=1e-5)


@pytest.mark.parametrize("form", ["torch", "huggingface"])
def test_ranges_of_the_data_go_into_the_export_and_odd_metadata_does_not_stop_it(
    made, form, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", next(path for path in sys.path if path.endswith("tests/tiny")))
    model = made("knn")
    inputs = dataclasses.replace(model.inputs, ranges={"float": (200.0, 320.0)})
    manifest = {**described_of(model), "inputs": inputs.to_json()}
    bundle.write(tmp_path / "bundle", network=model.network, manifest=manifest)
    ranged = bundle.load(tmp_path / "bundle")
    assert ranged.inputs == inputs
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{low}.tif" for low in (180, 210, 250, 300)]
    for low, path in zip((180, 210, 250, 300), files, strict=True):
        Image.fromarray((low + 30 * rng.random((16, 16))).astype(np.float32)).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9204] = (-1, 0)
    files.append(tmp_path / "odd.jpg")
    Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)).save(files[-1], exif=exif.tobytes())
    (done,) = write.export(ranged, tmp_path / "out", [form], items=files)
    assert done.checked.pictures == 5
    assert done.checked.difference < 1e-4


@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_an_export_makes_squares_as_the_bundle_does_and_timm_s_own_transform_too(
    lite0, resize, photos, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", next(path for path in sys.path if path.endswith("tests/tiny")))
    inputs = lite0.inputs.resized(resize)
    manifest = {**described_of(lite0), "inputs": inputs.to_json()}
    bundle.write(tmp_path / "bundle", network=lite0.network, manifest=manifest)
    model = bundle.load(tmp_path / "bundle")
    assert model.inputs == inputs
    wide = [path for path in photos if path.name in ("wide.jpg", "tall.png", "turned.jpg")]
    assert np.abs(model.predict_proba(wide) - lite0.predict_proba(wide)).max() > 0.01
    (done,) = write.export(model, tmp_path / "out", ["timm"], items=photos)  # tries both ways, or raises
    assert done.checked.difference < 1e-4
    own = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert own["crop_mode"] == {"pad": "border", "squash": "squash"}[resize]
    how = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert (how["resize"], how["fill"]) == (resize, list(inputs.fill))


@pytest.mark.parametrize("form", ["timm", "onnx"])
@pytest.mark.slow
def test_what_makes_classes_count_alike_goes_into_the_export(lite0, form, photos, tmp_path):
    calibration = {"temperature": 2.0, "adjustment": [3.0, -1.0, -2.0], "adjustment_share": 1.0}
    calibration |= {"recall_before_adjustment": 0.5, "recall_after_adjustment": 0.75}
    manifest = {**described_of(lite0), "calibration": calibration}
    bundle.write(tmp_path / "bundle", network=lite0.network, manifest=manifest)
    model = bundle.load(tmp_path / "bundle")
    logits = torch.from_numpy(model.logits(photos))
    expected = (logits / 2 - torch.tensor(calibration["adjustment"])).softmax(1).numpy()
    np.testing.assert_allclose(model.predict_proba(photos), expected, atol=1e-5)
    (done,) = write.export(model, tmp_path / "out", [form], items=photos)
    assert done.checked.difference < 1e-3
    assert "those of equally frequent classes" in card(model, library="timm")
    bundle.write(
        tmp_path / "bad",
        network=lite0.network,
        manifest={**manifest, "calibration": {"adjustment": [1.0, 2.0]}},
    )
    with pytest.raises(BundleError, match="adjustment can't be"):
        bundle.load(tmp_path / "bad")


# ----------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("kind", ["svm"])
def test_torch_loads_the_program_without_the_code(made, kind, photos, tmp_path):
    model = made(kind)
    (done,) = write.export(model, tmp_path / "out", ["torch"], items=photos)
    assert done.checked.difference < 1e-5
    extra = {"preprocessing.json": ""}
    program = torch.export.load(str(tmp_path / "out" / "model.pt2"), extra_files=extra)
    assert json.loads(extra["preprocessing.json"])["classes"] == list(model.classes)
    for count in (1, 5):
        _, shares = program.module()(torch.zeros(count, 16, 16, 3, dtype=torch.uint8))
        assert shares.shape == (count, 3)


# ------------------------------------------------------------------------ timm, Hugging Face


@pytest.mark.slow
def test_plain_timm_loads_real_weights_and_predicts_the_same(lite0, squares, tmp_path):
    (done,) = write.export(lite0, tmp_path / "out", ["huggingface"], items=squares)
    assert {"README.md", "config.json", "model.safetensors"} <= set(done.files)
    told = json.loads(run(TIMM_READER, tmp_path / "out", *squares))
    assert told["labels"] == list(lite0.classes)
    expected = lite0.predict_proba(squares)
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(told["shares"], expected, atol=1e-4)
    text = (tmp_path / "out" / "README.md").read_text()
    header = YAML(typ="safe").load(text.split("---\n")[1])
    assert (header["library_name"], header["pipeline_tag"]) == ("timm", "image-classification")
    for said in ("ant, bee, cat", "`abc`", "fine_tune", "efficientnet_lite/lite0", "3 seeds", "1.700"):
        assert said in text, said
    assert "0.7500 | 0.5981 to 0.8581 (Wilson, 40 images)" in text


def test_nothing_that_a_bundle_says_formats_its_card(made, tmp_path):
    """A bundle may be anybody's: whatever its description holds, the card stays the card."""
    model = made("knn")
    odd = "x`\n# owned <img src=x> [a](b) \x1b]0;t\x07"
    told = described_of(model)
    provenance = dict.fromkeys(("study", "trial", "seed", "fingerprint"), odd)
    provenance |= {"plugins": [{"distribution": odd, "version": odd, "name": odd}], "versions": {odd: odd}}
    calibration = {"used": False, "why": odd, "items": 9, "error_before": 0.1}
    manifest = {**told, "provenance": provenance, "calibration": calibration}
    manifest["metrics"] = {odd: {"accuracy": 0.5}, "val": {"accuracy": 0.5}}
    bundle.write(tmp_path / "bundle", network=model.network, manifest=manifest)
    text = card(bundle.load(tmp_path / "bundle"), library="tlsearch")
    _, header, body = text.split("---\n", 2)
    assert "\x1b" not in text
    assert YAML(typ="safe").load(header)["model-index"][0]["name"] == odd
    titles = [line for line in body.splitlines() if line.startswith("#")]
    assert len(titles) == 7
    assert body.count("# owned") == body.count(r"\# owned") + body.count("`x'")
    assert body.count("<img") == body.count(r"\<img") + body.count("`x'")


def test_other_models_become_a_folder_that_tlsearch_loads(made, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", next(path for path in sys.path if path.endswith("tests/tiny")))
    model = made("knn")
    (done,) = write.export(model, tmp_path / "out", ["huggingface"], items=photos)
    loaded = bundle.load(tmp_path / "out")
    np.testing.assert_array_equal(loaded.predict_proba(photos), model.predict_proba(photos))
    assert done.checked.difference < 1e-6
    assert "library_name: tlsearch" in (tmp_path / "out" / "README.md").read_text()


def test_what_timm_cannot_hold_is_refused_with_what_can(made, tmp_path):
    with pytest.raises(InputError, match="isn't a timm model") as caught:
        write.export(made("fine_tune"), tmp_path / "out", ["timm"])
    assert "onnx" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["fine_tune", "joint_training", "lda"])
def test_a_linear_head_is_found_whatever_it_is_made_of(made, kind):
    network = made(kind).network
    weight, bias = as_timm.linear_part(network, strategy=kind)
    features = torch.randn(9, network.info.width)
    np.testing.assert_allclose(
        (features.double() @ weight.T + bias).float(), network.head(features), atol=1e-3
    )


@pytest.mark.parametrize("kind", ["knn", "svm", "ranpac"])
def test_another_head_is_not_taken_for_a_linear_one(made, kind):
    with pytest.raises(InputError, match="isn't a linear layer"):
        as_timm.linear_part(made(kind).network, strategy=kind)


# ------------------------------------------------------------------------------- the check


def test_an_export_that_predicts_otherwise_is_deleted(made, photos, tmp_path, monkeypatch):
    def confused(model, folder, options):
        return write.as_onnx.write(made("lda"), folder, options)

    monkeypatch.setitem(write.WRITERS, "onnx", confused)
    with pytest.raises(ExportError, match="the model disagree") as caught:
        write.export(made("fine_tune"), tmp_path / "out", ["onnx"], items=photos)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_run_is_told(made, photos, tmp_path):
    (tmp_path / "predict.py").write_text("import tlsearch\n")
    with pytest.raises(ExportError, match=r"can't be run: .*tlsearch"):
        try_out(tmp_path, "predict_onnx.py", made("lda"), photos, "photos")


def test_noise_is_made_where_there_are_no_pictures_and_broken_ones_are_passed_over(made, photos, tmp_path):
    model = made("lda")
    (done,) = write.export(model, tmp_path / "a", ["onnx"])
    assert (done.checked.source, done.checked.pictures) == ("generated noise", 16)
    (tmp_path / "broken.png").write_bytes(b"<html>")
    items = [tmp_path / "broken.png", photos[0], np.zeros((5, 5, 3), np.uint8), photos[1].read_bytes()]
    with write.files(items, model.inputs) as (found, kind):
        assert (len(found), kind) == (3, "given pictures")
        assert model.predict(found) == model.predict(items[1:])


def test_what_is_there_is_only_replaced_on_demand_and_if_it_is_an_export(made, tmp_path):
    model = made("lda")
    place = tmp_path / "out"
    place.mkdir()
    (place / "diary.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="isn't an earlier export"):
            write.export(model, place, ["onnx"], overwrite=overwrite)
    (place / "diary.txt").rename(place / "preprocessing.json")
    with pytest.raises(InputError, match="already holds an export"):
        write.export(model, place, ["onnx"])
    with pytest.raises(UnknownNameError, match='Did you mean "onnx"'):
        write.export(model, place, ["onxn"])
    assert [path.name for path in place.iterdir()] == ["preprocessing.json"]


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_a_model_on_another_device_is_exported_to_onnx_and_stays_there(tmp_path, made, device):
    model = bundle.load(made("fine_tune").folder, device=device)
    (done,) = write.export(model, tmp_path / "m", ["onnx"])
    assert done.checked.difference < 1e-3
    assert next(model.network.parameters()).device.type == device


@pytest.mark.slow
def test_the_cards_snippet_reads_a_turned_picture_as_the_model_does(tmp_path, lite0):
    place = tmp_path / "hub"
    write.export(lite0, place, ["huggingface"])
    code = (place / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    for seed in range(40):  # until one that is another class when it lies on its side
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((90, 60))
        picture.save(place / "lying.png")
        picture.save(place / "image.png", exif=turned)
        lying, upright = lite0.predict([place / "lying.png", place / "image.png"])
        if lying != upright:
            break
    assert lying != upright
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=place, check=True
    ).stdout
    assert said.strip() == upright
