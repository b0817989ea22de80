"""A real server on a free port, asked by real clients."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tlsearch.errors import InputError
from tlsearch.models.serving.limits import check_host

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def url(start) -> str:
    return start(bytes=200_000, pixels=10_000, files=4, wait=0.05)


def png(seed: int = 0, size: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(file, "PNG")
    return file.getvalue()


def test_a_form_with_files_and_a_body_of_bytes_get_the_models_prediction(url, model):
    images = [png(0), png(1)]
    expected = model.predict_proba(images)
    form = [("files", ("a.png", images[0])), ("files", ("b.png", images[1]))]
    told = requests.post(f"{url}/predict", files=form).json()["predictions"]
    assert [guess["item"] for guess in told] == ["a.png", "b.png"]
    assert [guess["label"] for guess in told] == model.predict(images)
    for guess, row in zip(told, expected, strict=True):
        assert guess["probabilities"] == pytest.approx(
            dict(zip(CLASSES, row.tolist(), strict=True)), abs=1e-5
        )
        assert list(guess["probabilities"].values()) == sorted(guess["probabilities"].values(), reverse=True)
        assert guess["probability"] == pytest.approx(float(row.max()), abs=1e-5)
    for kind in ("image/png", "application/octet-stream", "image/x-whatever"):
        answer = requests.post(f"{url}/predict?top=1", data=images[0], headers={"Content-Type": kind})
        (guess,) = answer.json()["predictions"]
        assert guess["label"] == told[0]["label"]
        assert list(guess["probabilities"]) == [guess["label"]]


def test_requests_at_once_share_batches_and_get_their_own_answers(url, model):
    images = [png(seed) for seed in range(40)]
    expected = model.predict_proba(images)
    before = requests.get(f"{url}/health").json()

    def ask(image: bytes) -> dict[str, float]:
        answer = requests.post(f"{url}/predict", data=image, headers={"Content-Type": "image/png"})
        return answer.json()["predictions"][0]["probabilities"]

    with ThreadPoolExecutor(20) as pool:
        told = list(pool.map(ask, images))
    for shares, row in zip(told, expected, strict=True):
        assert shares == pytest.approx(dict(zip(CLASSES, row.tolist(), strict=True)), abs=1e-5)
    assert len({tuple(shares.items()) for shares in told}) > 10, "answers that are all the same show nothing"
    after = requests.get(f"{url}/health").json()
    assert after["images"] - before["images"] == 40
    assert after["batches"] - before["batches"] < 40


@pytest.mark.parametrize(
    ("status", "said", "request_"),
    [
        (422, "a.png is HTML or XML, not a picture.", {"files": {"files": ("a.png", b"<html>")}}),
        (422, "a.png is empty (0 bytes).", {"files": {"files": ("a.png", b"")}}),
        (422, "image has 200 x 200 pixels; at most 10000 are taken.", {"data": png(size=200)}),
        (422, "no body", {"data": b"", "headers": {"Content-Type": "image/png"}}),
        (422, "is no file", {"files": {"x": (None, "text")}}),
        (422, "boundary", {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        (422, "top: Input should be greater than or equal to 1", {"data": png(), "params": {"top": 0}}),
        (413, "at most 200000 bytes", {"data": b"x" * 300_000}),
        (413, "at most 200000 bytes", {"data": (b"x" * 50_000 for _ in range(6))}),
        (413, "At most 4 images", {"files": [("files", (f"{n}.png", png())) for n in range(5)]}),
        (415, "it is text/plain", {"data": "a", "headers": {"Content-Type": "text/plain"}}),
    ],
)
def test_what_cannot_be_taken_is_refused_with_a_sentence(url, status, said, request_):
    headers = {} if "files" in request_ else {"Content-Type": "image/png"}
    answer = requests.post(f"{url}/predict", **{"headers": headers, **request_})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert requests.get(f"{url}/health").status_code == 200


def test_card_page_and_description_are_there_without_a_network(url):
    card = requests.get(f"{url}/model").json()
    assert (card["study"], card["trial"], card["classes"]) == ("insects", 3, CLASSES)
    assert card["temperature"] == 2
    for path in ("/", "/docs"):
        page = requests.get(url + path)
        assert page.status_code == 200
        assert not re.search(r"(src|href)=.https?://", page.text), "the page fetches from elsewhere"
    body = requests.get(f"{url}/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
    assert {"multipart/form-data", "image/*"} <= set(body["content"])


def test_with_a_token_only_its_holders_are_answered(start):
    url = start(token="s3cret")
    form = {"files": ("a.png", png())}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
        answer = requests.post(f"{url}/predict", files=form, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert requests.get(f"{url}/model", headers=headers).status_code == 401
    right = {"Authorization": "Bearer s3cret"}
    assert requests.post(f"{url}/predict", files=form, headers=right).status_code == 200
    assert requests.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_other_machines_take_a_token(host):
    with pytest.raises(InputError, match="a token is needed"):
        check_host(host, None)
    with pytest.raises(InputError, match="empty"):
        check_host(host, " ")
    check_host(host, "s3cret")
    for own in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_host(own, None)


def test_schemathesis_finds_nothing(url):
    tool = shutil.which("st", path=str(Path(sys.executable).parent))
    assert tool
    words = ["run", f"{url}/openapi.json", "--max-examples", "8", "--seed", "1", "--checks", "all"]
    # Bytes that are no image keep to the schema: OpenAPI has no word for what an image is.
    words += ["--exclude-checks", "positive_data_acceptance", "--no-color", "--request-timeout", "60"]
    done = subprocess.run([tool, *words], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "3 passed" in done.stdout


def test_the_command_serves_and_ctrl_c_ends_it(model, tmp_path):
    tiny = next(path for path in sys.path if path.endswith("tests/tiny"))
    env = {**os.environ, "PYTHONPATH": tiny, "TLSEARCH_DB": f"sqlite:///{tmp_path}/none.db"}
    command = [sys.executable, "-m", "tlsearch", "serve", str(model.folder)]
    refused = subprocess.run(
        [*command, "--host", "0.0.0.0"], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert "token" in refused.stderr
    with subprocess.Popen(
        [*command, "--port", "0", "--allow-host", "models.lan"],
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=tmp_path,
    ) as process:
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert found
        answer = requests.post(f"{found[0]}/predict", files={"files": ("a.png", png())}, timeout=550)
        assert answer.json()["predictions"][0]["label"] == model.predict([png()])[0]
        told = [
            requests.get(f"{found[0]}/health", headers={"Host": name}, timeout=550).status_code
            for name in ("models.lan", "LOCALHOST:1", "[::1]:80", "evil.example", "")
        ]
        assert told == [200, 200, 200, 400, 400]
        taken = subprocess.run(
            [*command, "--port", found[1]], capture_output=True, text=True, env=env, cwd=tmp_path, check=False
        )
        assert taken.returncode == 2
        assert "Can't listen" in taken.stderr
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert "Stopped after 1 image in 1 batch" in rest
    assert "Traceback" not in rest
