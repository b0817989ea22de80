"""One backbone at several sizes of pictures: the search has the choice."""

from __future__ import annotations

import json

import pytest

import tlsearch

pytestmark = pytest.mark.slow

SMALL, LARGE = "efficientnet_lite/lite0@32", "efficientnet_lite/lite0@48"


def test_each_size_is_a_choice_of_its_own_and_goes_with_the_model(place):
    place.run(
        "run",
        place.study(
            backbones=[SMALL, LARGE],
            strategies=["linear_probe", "fine_tune"],
            budget={"trials": 6, "epochs": 1},
            search={"finalists": 2, "confirm_seeds": 1},
        ),
    )
    tried = {(trial["backbone"], trial["strategy"]) for trial in place.ask("trials", "tiny")}
    assert tried == {(size, name) for size in (SMALL, LARGE) for name in ("linear_probe", "fine_tune")}
    best = place.ask("best", "tiny")
    side = int(best["backbone"].partition("@")[2])
    assert tlsearch.load(best["model"]["uri"]).inputs.shape == (3, side, side)
    said = place.ask("predict", "tiny", *sorted(place.images.rglob("*.png"))[:2])
    assert len(said) == 2
    place.run("export", "tiny", "--format", "onnx", "--output", "onnx")
    assert json.loads((place.folder / "onnx" / "preprocessing.json").read_text())["size"] == side
