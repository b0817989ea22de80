"""Bundles of every kind of head, trained on the tiny task or put together from real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_bench import BACKBONE, bench, outcomes, point, results, study

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.models import bundle
from tlsearch.models.model import Model
from tlsearch.models.rebuild import rebuild
from tlsearch.testing import classes, fixtures

CLASSES = ["ant", "bee", "cat"]
POINTS = {
    "fine_tune": point("fine_tune"),
    "joint_training": point("joint_training"),
    "knn": point("feature_copy", params={"learner": "knn", "knn.k": 3}),
    "lda": point("feature_copy", params={"learner": "lda"}),
    "svm": point("feature_copy", params={"learner": "svm", "svm.C": 10.0, "svm.gamma": 1.0}),
    "ranpac": point("ranpac", size=256),
}


def described(strategy: str, params: Any, **more: Any) -> dict[str, Any]:
    """The parts of a description that the end of a search adds."""
    return {
        "classes": CLASSES,
        "image_size": None,
        "strategy": strategy,
        "params": dict(params),
        "metrics": {"val": {"accuracy": 0.75, "log_loss": 0.5, "accuracy_mean": 0.74, "seeds": 3.0}},
        "calibration": {"temperature": 1.7, "items": 40, "error_before": 0.1, "error_after": 0.02},
        "provenance": {"study": "insects", "trial": 4, "seed": 0, "fingerprint": "abc"},
        **more,
    }


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The model of a kind, trained once."""
    folder = tmp_path_factory.mktemp("made")
    source = {"source": "tiny_colours", "classes": 4}
    kept: dict[str, Model] = {}

    def get(kind: str) -> Model:
        if kind not in kept:
            item = POINTS[kind]
            worker = bench(folder / kind, study(source_data=source, budget={"epochs": 1}))
            (outcome,) = outcomes(results(worker, item)).values()
            assert outcome.artifact is not None, outcome.reason
            network = rebuild(
                backbone=BACKBONE,
                weights="pretrained",
                image_size=None,
                strategy=item.strategy,
                params=item.params,
                **fixtures.learned(3),
                state=load_file(Path(outcome.artifact.uri)),
            )
            if hasattr(network.head, "linear"):  # one epoch leaves a head that says the same of everything
                network.head.linear.weight.data.mul_(300)
            place = folder / kind / "bundle"
            bundle.write(place, network=network, manifest=described(item.strategy, item.params))
            kept[kind] = bundle.load(place)
        return kept[kind]

    return get


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """ImageNet weights at 64 pixels under a head that tells pictures apart."""
    pretrained = registry.backbone("efficientnet_lite/lite0", weights="pretrained", image_size=64)
    network = Backbone(pretrained, *classes(3))
    plugin = registry.strategy("fine_tune")
    params = plugin.default(pretrained.info)
    plugin.restore(network, params)
    network.release_source()
    # A head made of chance alone may say the same of every picture.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network.head.linear.weight.data.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("lite0") / "bundle"
    network.eval().requires_grad_(False)
    bundle.write(folder, network=network, manifest=described("fine_tune", params, image_size=64))
    return bundle.load(folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of many kinds: wide, tall, rotated by EXIF, transparent, grey, 16 bits, CMYK, palette."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)

    def noise(height: int, width: int, channels: int) -> np.ndarray:
        coarse = rng.integers(0, 256, (5, 7, channels), dtype=np.uint8).squeeze()
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))

    upside = Image.Exif()
    upside[0x0112] = 6
    Image.fromarray(noise(40, 90, 3)).save(folder / "wide.jpg", quality=95)
    Image.fromarray(noise(120, 31, 3)).save(folder / "tall.png")
    Image.fromarray(noise(50, 70, 3)).save(folder / "turned.jpg", exif=upside)
    Image.fromarray(noise(33, 33, 4), "RGBA").save(folder / "transparent.png")
    Image.fromarray(noise(64, 64, 1)).save(folder / "grey.png")
    Image.fromarray(noise(20, 45, 1).astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(noise(48, 36, 3)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(30, 30, 3)).quantize(16).save(folder / "palette.gif")
    Image.fromarray(noise(10, 12, 3)).save(folder / "small.webp", lossless=True)
    return sorted(folder.iterdir())
