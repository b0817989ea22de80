"""Multi-spectral pictures, from a folder to predictions, pages and exports, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests import channels
from tests.one_process import command
from tlsearch import spec

STUDY = """
study: bands
data: {source: folder, path: bands, channels: 5, bits: 16}
backbones: [tiny/net]
strategies: [feature_copy, fine_tune]
budget: {trials: 3, epochs: 4}
search: {finalists: 1, confirm_seeds: 0}
"""


class Here:
    """A folder where commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tiny = Path(__file__).parents[1] / "tiny"
        self.env = {**os.environ, "TLSEARCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(tiny)}

    def told(self, *words: object, code: int = 0) -> str:
        done = command(*words, folder=self.folder, env=self.env)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def script(self, *words: object) -> str:
        """What a script prints that can't import tlsearch."""
        blocked = "import sys, runpy; sys.modules['tlsearch'] = None; sys.argv = sys.argv[1:]; "
        code = blocked + "sys.path.insert(0, 'm'); runpy.run_path(sys.argv[0], run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Here:
    """With the study ``bands`` of 5 channels, searched."""
    made = Here(tmp_path_factory.mktemp("bands"))
    channels.folder_of(made.folder / "bands", count=40)
    (made.folder / "bands.yaml").write_text(STUDY)
    made.told("run", "bands.yaml")
    return made


@pytest.fixture(scope="module")
def fresh(here: Here) -> Path:
    """Pictures that weren't there, in both kinds of files."""
    folder = here.folder / "fresh"
    folder.mkdir()
    for kind in channels.CLASSES:
        for number, ending in enumerate(("tif", "npy", "tif", "npy", "tif", "npy"), start=100):
            pixels = channels.bands(number, kind, channels=5, informative=3)
            channels.write(folder / f"{kind}-{number}.{ending}", pixels)
    return folder


def shares(told: str) -> np.ndarray:
    return np.array([[one["probabilities"][kind] for kind in channels.CLASSES] for one in json.loads(told)])


def test_the_class_is_told_by_a_channel_that_rgb_has_not(here, fresh):
    paths = sorted(fresh.iterdir())
    told = json.loads(here.told("predict", "bands", *paths, "--json"))
    assert all(one["label"] == Path(one["item"]).name.partition("-")[0] for one in told)
    again = json.loads(here.told("evaluate", "bands", "bands", "--json"))
    assert again["metrics"]["accuracy"] > 0.75


@pytest.mark.parametrize("way", ["inside", "beside"])
def test_onnx_predicts_the_same_without_tlsearch(here, fresh, way):
    here.told("export", "bands", "--format", "onnx", "--preprocess", way, "-o", "m", "--overwrite")
    how = json.loads((here.folder / "m" / "preprocessing.json").read_text())
    shape, kind = (["batch", 16, 16, 5], "uint16") if way == "inside" else (["batch", 5, 16, 16], "float32")
    assert (how["input"]["shape"], how["input"]["dtype"]) == (shape, kind)
    paths = sorted(fresh.iterdir())
    found = json.loads(here.script("m/predict.py", *paths, "--json"))["probabilities"]
    assert np.allclose(found, shares(here.told("predict", "bands", *paths, "--json")), atol=1e-4)


def test_timm_is_refused_and_hugging_face_holds_the_bundle(here):
    said = here.told("export", "bands", "--format", "timm", "-o", "t", code=2)
    assert "takes 5 channels of 16 bits" in said
    here.told("export", "bands", "--format", "huggingface", "-o", "hub")
    assert "Images have 5 channels of 16 bits" in (here.folder / "hub" / "README.md").read_text()


def test_pages_show_the_first_three_channels_and_say_so(here):
    here.told("look", "bands.yaml", "--each", "1")
    page = (here.folder / "bands-look.html").read_text()
    assert "It sees 5 channels of 16 bits; pictures here show the first three as red, green and blue." in page
    assert "data:image/jpeg" in page
    here.told("report", "bands")
    assert "It sees 5 channels of 16 bits" in (here.folder / "bands.html").read_text()


def test_near_duplicates_are_found_by_what_is_in_any_channel(here):
    folder = here.folder / "twice"
    channels.folder_of(folder, count=20)
    for number in range(6):  # saved again, a little brighter
        pixels = tifffile.imread(folder / "dark" / f"{number}.tif")
        channels.write(folder / "dark" / f"{number}-again.tif", (pixels * 1.02).astype(np.uint16))
    (here.folder / "twice.yaml").write_text(STUDY.replace("bands", "twice"))
    found = json.loads(here.told("audit", "twice.yaml", "--json"))["near_duplicates"]
    named = [{Path(one["item"]).stem, Path(one["other"]).stem} for one in found["examples"]]
    assert named
    assert all({stem.removesuffix("-again") for stem in pair} == {min(pair)} for pair in named)


@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_init_finds_channels_and_bits_in_the_files(tmp_path, ending):
    here = Here(tmp_path)
    channels.folder_of(tmp_path / "bands", channels=2, informative=1, count=6, ending=ending)
    here.told("init", "bands")
    data = spec.load(tmp_path / "bands.yaml").data
    assert (data.channels, data.bits) == (2, 16)


def test_init_names_a_file_of_other_channels(tmp_path):
    here = Here(tmp_path)
    folder = channels.folder_of(tmp_path / "bands", count=6)
    channels.write(folder / "dark" / "odd.tif", channels.bands(1, "dark", channels=4, informative=3))
    said = here.told("init", "bands", code=2)
    assert "different numbers of channels" in said
    assert "dark/odd.tif has 4" in said
    assert not (tmp_path / "bands.yaml").exists()


def test_a_study_file_without_channels_names_the_key(tmp_path):
    here = Here(tmp_path)
    channels.folder_of(tmp_path / "bands", count=6)
    (tmp_path / "bands.yaml").write_text(STUDY.replace(", channels: 5, bits: 16", ""))
    assert "`data.channels: 5` takes such" in here.told("run", "bands.yaml", code=2)


def test_a_model_of_five_channels_names_a_picture_of_three(here):
    picture = here.folder / "three.tif"
    channels.write(picture, channels.bands(1, "dark", channels=3, informative=0))
    said = here.told("predict", "bands", picture, code=2)
    assert "has 3 channels, and the data has 5" in said


def test_two_data_sets_of_one_backbone_have_the_same_channels(tmp_path):
    text = STUDY + "source_data: {source: folder, path: bands, channels: 4}\n"
    (tmp_path / "bands.yaml").write_text(text)
    said = Here(tmp_path).told("run", "bands.yaml", code=2)
    assert "source_data.channels: is 5, as in data" in said
