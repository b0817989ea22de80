"""Bad input through the command line: exit code 2, a sentence, nothing written; and all odd pictures at once.

Commands run in this process, which saves each of them the imports; what they print and write is the same.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.cli.test_bad_input import images_of
from tlsearch.cli import main
from tlsearch.database.store import Store
from tlsearch.errors import SpecError
from tlsearch.search import setup
from tlsearch.spec import load

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(place, monkeypatch, capsys) -> Command:
    """Run a command in the place; answers exit code, stdout and stderr."""
    monkeypatch.chdir(place.folder)
    for name in ("TLSEARCH_CACHE", "TLSEARCH_DB"):
        monkeypatch.setenv(name, place.env[name])

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tlsearch", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        output, errors = capsys.readouterr()
        assert "Traceback" not in errors
        return code, output, errors

    return run


@pytest.fixture
def refused(place, command) -> Callable[..., str]:
    """Run a command that must change no file; answers what it said."""

    def run(*arguments: object) -> str:
        before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
        code, output, errors = command(*arguments)
        assert code == 2, errors
        assert output == ""
        assert errors.startswith(("Error: ", "Usage: ")) or "\nError: " in errors
        assert len(errors) < 2000
        assert {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()} == before
        return errors

    return run


def text_of(place, extra: str = "", **changes) -> str:
    """A study file's text with something put behind it."""
    document = YAML(typ="safe").load(place.study())
    data = {key: value for key, value in document["data"].items() if key != "image_size"}
    file = io.StringIO()
    YAML().dump({**document, "backbones": ["tiny/net"], "data": data, **changes}, file)
    return file.getvalue() + extra


RATE = "space:\n  fine_tune.learning_rate: "
NO_RATES = [".nan", ".inf", "-.inf", "[0.1, .nan]", "{low: .nan, high: 1.0}", "{low: 0.1, high: .inf}"]
NO_RATES += ["{low: 0.2, high: 0.1}", "{low: 0, high: 1, log: true}", "1e999", "[]", "null"]
NO_RATES += ["{value: 0.1, low: 0.1}"]


@pytest.mark.parametrize("rate", NO_RATES)
def test_learning_rates_that_are_none(place, refused, rate):
    (place.folder / "bad.yaml").write_text(text_of(place, f"{RATE}{rate}\n"))
    assert "fine_tune.learning_rate" in refused("run", "bad.yaml")


@pytest.mark.parametrize(
    "rate", ["-0.1", "0", "fast", "true", "{low: -0.1, high: 0.1}", "'0.1; DROP TABLE s'"]
)
def test_learning_rates_that_the_strategy_cannot_take(place, rate):
    (place.folder / "bad.yaml").write_text(text_of(place, f"{RATE}{rate}\n"))
    study, cache = load(place.folder / "bad.yaml"), Path(place.env["TLSEARCH_CACHE"])
    with pytest.raises(SpecError, match=r"fine_tune\.learning_rate"):
        setup.prepare(study, cache=cache, threads=1, observe=lambda _: None)


@pytest.mark.parametrize(
    "trials", ["0", "-1", "1000000000", "1.5", "true", "1e400", "'3'", "[3]", "9" * 5000]
)
def test_trials(place, refused, trials):
    (place.folder / "bad.yaml").write_text(text_of(place, budget="?").replace("'?'", f"{{trials: {trials}}}"))
    said = refused("run", "bad.yaml")
    assert "budget.trials" in said or "bad.yaml: not" in said


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
TEXTS = {
    "key twice": "study: other\n",
    "inner key twice": "budget: {trials: 3, trials: 4}\n",
    "object": "extra: !!python/object/apply:os.system ['touch canary']\n",
    "new object": "extra: !!python/object/new:subprocess.Popen [['touch', 'canary']]\n",
    "aliases": BOMB,
    "merge": "base: &b {trials: 3}\nsearch:\n  <<: *b\n",
    "nesting": "extra: " + "[" * 2000 + "]" * 2000 + "\n",
    "a control character": 'extra: "\x00"\n',
    "not UTF-8": "extra: \udcff\n",
    "megabytes": "# " + "x" * 2_000_000 + "\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_study_files_that_are_traps(place, refused, text):
    content = text_of(place, text, budget={"epochs": 1} if "inner" not in text else {})
    if text.startswith("budget"):
        content = text_of(place).replace("budget:", "objective: {}\nextra:") + text
    (place.folder / "bad.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "bad.yaml" in refused("run", "bad.yaml")
    assert not (place.folder / "canary").exists()


NAMES = [
    "../x",
    "a/b",
    "#",
    ";",
    "x;y",
    "a\0b",
    "a'b",
    'a"; DROP TABLE studies; --',
    "n" * 10_240,
    "",
    ".",
    "-x",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_study_names(place, refused, name):
    file = io.StringIO()
    YAML().dump({"study": name}, file)
    content = text_of(place).replace("study: tiny\n", file.getvalue())
    (place.folder / "bad.yaml").write_text(content)
    refused("run", "bad.yaml")
    with Store.open(place.url, create=True) as store:
        assert store.studies() == []
    if not name.startswith("-"):
        for ask in (("best",), ("trials",), ("show",), ("predict",)):
            said = refused(*ask, name, *({"show": ["0"], "predict": ["x.png"]}.get(ask[0], [])))
            assert said.replace("\n", "").isprintable()
    with Store.open(place.url) as store:
        assert store.studies() == []


def test_data_that_cannot_be_searched_on(place, images, tmp_path, refused):
    def said_of(folder: Path) -> str:
        study = place.study(data={"path": str(folder), "image_size": 16}, backbones=["tiny/net"])
        return refused("audit", study)

    (tmp_path / "none").mkdir()
    assert "folder" in said_of(tmp_path / "none")
    assert "at least 2" in said_of(images_of(tmp_path / "one", images, disc=9))
    assert 'class "frame" has 1 distinct' in said_of(images_of(tmp_path / "single", images, disc=9, frame=1))
    (tmp_path / "hollow" / "empty").mkdir(parents=True)
    assert "holds no image" in said_of(images_of(tmp_path / "hollow" / "x", images, disc=2, frame=2).parent)
    for split in ("train", "test"):
        images_of(tmp_path / "same" / split, images, disc=20, frame=20)
    said = said_of(tmp_path / "same")
    assert "items of test are copies of items of train" in said
    assert "test/disc/000.png is train/disc/000.png" in said


def test_a_server_that_is_not_there_is_named_without_the_password(place, refused, monkeypatch):
    secret = "s3cr" + "et"
    monkeypatch.setenv("TLSEARCH_DB", f"postgresql://ann:{secret}@127.0.0.1:1/studies")
    for ask in (("run", place.study()), ("best", "tiny"), ("studies",)):
        said = refused(*ask)
        assert secret not in said
        assert "127.0.0.1:1" in said


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few bytes."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 100)),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_a_folder_of_everything(place, images, tmp_path, command):
    root = images_of(tmp_path / "all", images, disc=30, frame=30)
    place_of = root / "disc"
    picture = Image.open(images / "disc" / "035.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    deep.save(place_of / "deep.png")
    picture.convert("CMYK").save(place_of / "cmyk.jpg")
    picture.rotate(9).quantize(16).save(place_of / "palette.png", transparency=1)
    picture.rotate(20).save(place_of / "turned.jpg", exif=exif)
    picture.rotate(40).save(place_of / "moving.gif", save_all=True, append_images=[picture])
    picture.rotate(60).save(place_of / "really_a_bmp.jpg", "BMP")
    content = (images / "disc" / "036.png").read_bytes()
    bad = {
        "empty.jpg": b"",
        "cut.png": content[: len(content) // 2],
        "page.jpg": b"<!DOCTYPE html><html>404 Not Found</html>",
        "bomb.png": bomb(),
        "script.jpg": b"#!/bin/sh\ntouch canary\n",
    }
    for name, data in bad.items():
        (place_of / name).write_bytes(data)
    os.mkfifo(place_of / "fifo.png")
    (place_of / "out.png").symlink_to(images / "disc" / "037.png")
    (place_of / "passwd").symlink_to("/etc/passwd")
    (place_of / "loop").symlink_to(place_of)
    (place_of / "nowhere.png").symlink_to("nothing")
    data = {"path": str(root), "image_size": 16}
    study = place.study(data={**data, "max_broken": 0.3}, backbones=["tiny/net"])
    code, output, errors = command("audit", study, "--json")
    assert code == 0, errors
    reasons = dict(line.split(": ", 1) for line in json.loads(output)["broken"]["examples"])
    expected = {
        "empty.jpg": "is empty",
        "cut.png": "can't be decoded",
        "page.jpg": "HTML",
        "bomb.png": "more than the 89478485 pixels",
        "script.jpg": "no known picture format",
        "fifo.png": "FIFO",
        "out.png": "leads out of",
        "passwd": "leads out of",
        "loop": "loop of links",
        "nowhere.png": "a link to nothing",
    }
    assert set(reasons) == {f"disc/{name}" for name in expected}
    for name, words in expected.items():
        assert words in reasons[f"disc/{name}"]
    code, _, errors = command("audit", place.study(data=data, backbones=["tiny/net"]))
    assert code == 2
    assert "10 of 76 items are broken (13.2%); up to 5% are set aside" in errors
    assert "disc/" in errors
    assert not place.database.exists()
