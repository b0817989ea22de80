"""What a server answers where the model tells numbers or sets of labels."""

from __future__ import annotations

import io
import json

import numpy as np
import requests
from PIL import Image


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rounded(told):
    return json.loads(json.dumps(told), parse_float=lambda text: round(float(text), 3))


def test_an_answer_is_what_predict_tells_and_keeps_to_the_schema(start, served):
    url = start(served=served)
    images = [png(0), png(1)]
    form = [("files", (f"{number}.png", image)) for number, image in enumerate(images)]
    told = requests.post(f"{url}/predict", files=form).json()["predictions"]
    for found, expected in zip(told, served.describe(images), strict=True):
        assert set(found) == {"item", *served.task.unreadable}
        for name in served.task.unreadable:
            assert rounded(found[name]) == rounded(expected[name]), name
    card = requests.get(f"{url}/model").json()
    assert (card["task"], card["classes"]) == (served.manifest.task, list(served.classes))
    schemas = requests.get(f"{url}/openapi.json").json()["components"]["schemas"]
    assert set(schemas["Prediction"]["properties"]) == set(told[0])
    assert schemas["Prediction"]["required"] == list(told[0])


def test_top_limits_probabilities(start, served):
    url = start(served=served)
    body = {"data": png(0), "headers": {"Content-Type": "image/png"}}
    (told,) = requests.post(f"{url}/predict", params={"top": 1}, **body).json()["predictions"]
    assert len(told.get("probabilities", ["one"])) == 1
