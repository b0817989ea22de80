"""Bundles and checkpoints that were made to break or to run something: refused, and nothing runs."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.hostile.conftest import TRIED, Damage, damages
from tlsearch import registry
from tlsearch.backbones.checkpoints import read_state
from tlsearch.contracts import Backbone
from tlsearch.errors import BundleError, UnknownNameError, WeightsError
from tlsearch.files import sha256_of
from tlsearch.models import bundle
from tlsearch.testing import classes

BACKBONE = "tiny/net"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A good bundle."""
    pretrained = registry.backbone(BACKBONE, weights="pretrained", image_size=None)
    strategy = registry.strategy("fine_tune")
    params = dict(strategy.default(pretrained.info))
    network = Backbone(pretrained, *classes(3))
    strategy.restore(network, params)
    folder = tmp_path_factory.mktemp("made") / "bundle"
    bundle.write(
        folder,
        network=network.eval(),
        manifest={
            "classes": ["ant", "bee", "cat"],
            "image_size": None,
            "strategy": "fine_tune",
            "params": params,
            "metrics": {"val": {"accuracy": 0.5}},
            "provenance": {"study": "s"},
        },
    )
    assert bundle.load(folder).classes == ("ant", "bee", "cat")
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def vouch(folder: Path) -> None:
    """Make the description tell the checksum of the weights, as whoever changed these would."""
    path, weights = folder / bundle.MANIFEST, folder / bundle.WEIGHTS
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "sha256": sha256_of(weights), "bytes": weights.stat().st_size}))


def load_or_refuse(folder: Path) -> bool:
    try:
        model = bundle.load(folder)
    except (BundleError, UnknownNameError):
        return False
    assert model.predict_proba([np.zeros((20, 20, 3), np.uint8)]).shape == (1, 3)
    return True


@given(damage=damages)
@TRIED
def test_a_damaged_description_is_noticed(made: Path, copy: Path, damage: Damage):
    before = (made / bundle.MANIFEST).read_bytes()
    after = damage(before)
    (copy / bundle.MANIFEST).write_bytes(after)
    same = False
    with contextlib.suppress(ValueError, RecursionError):
        same = json.loads(after) == json.loads(before)
    assert load_or_refuse(copy) is same


@given(damage=damages)
@TRIED
def test_damaged_weights_that_somebody_vouches_for(made: Path, copy: Path, damage: Damage):
    (copy / bundle.WEIGHTS).write_bytes(damage((made / bundle.WEIGHTS).read_bytes()))
    (copy / bundle.MANIFEST).write_bytes((made / bundle.MANIFEST).read_bytes())
    vouch(copy)
    load_or_refuse(copy)


_header = st.recursive(
    st.one_of(
        st.none(), st.integers(-1, 2**63), st.floats(), st.text(max_size=4), st.sampled_from(["F32", "BOOL"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
_names = st.sampled_from(["head.linear.weight", "__metadata__", "x", "../x"])
_field = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "F64", "I8", "F8_E5M2", "X"]), _header),
        "shape": st.one_of(st.lists(st.integers(-1, 2**40), max_size=3), _header),
        "data_offsets": st.one_of(st.lists(st.integers(0, 2**40), min_size=2, max_size=2), _header),
    }
)


@given(
    changes=st.dictionaries(_names, st.one_of(_field, _header)),
    length=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)
@TRIED
def test_a_header_of_anything(made: Path, copy: Path, changes: dict[str, Any], length: int | None):
    content = (made / bundle.WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps({**json.loads(content[8 : 8 + size]), **changes}).encode()
    told = len(header) if length is None else length
    (copy / bundle.WEIGHTS).write_bytes(told.to_bytes(8, "little") + header + content[8 + size :])
    vouch(copy)
    load_or_refuse(copy)
    with contextlib.suppress(WeightsError):
        read_state(str(copy / bundle.WEIGHTS))


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def traps(folder: Path, canary: Path) -> dict[str, Path]:
    """Checkpoints that run something in whoever unpickles them."""
    files = {}
    for protocol in range(6):
        files[f"plain pickle {protocol}"] = folder / f"plain{protocol}.pth"
        files[f"plain pickle {protocol}"].write_bytes(pickle.dumps({"w": Canary(canary)}, protocol))
    for name, value in (
        ("value", {"weight": Canary(canary)}),
        ("key", {(1, Canary(canary)): torch.zeros(1)}),
        ("nested", {"state_dict": {"weight": torch.zeros(1)}, "args": [Canary(canary)]}),
    ):
        for zipped in (True, False):
            path = folder / f"{name}{zipped}.pth"
            torch.save(value, path, _use_new_zipfile_serialization=zipped)
            files[f"torch, {name}, {'zip' if zipped else 'old'}"] = path
    archive = folder / "archive.pt"
    with zipfile.ZipFile(archive, "w") as file:  # a TorchScript archive has code of its own
        file.writestr("x/constants.pkl", pickle.dumps(Canary(canary)))
        file.writestr("x/data.pkl", pickle.dumps({"weight": Canary(canary)}))
        file.writestr("x/version", "3")
        file.writestr("../../escaped", "outside")
    return files | {"script archive": archive}


@pytest.mark.filterwarnings("ignore")
def test_no_payload_ever_runs(tmp_path, copy):
    canary = tmp_path / "canary"
    for name, path in traps(tmp_path, canary).items():
        with pytest.raises(WeightsError):
            read_state(str(path))
        assert not canary.exists(), name
        (copy / bundle.WEIGHTS).write_bytes(path.read_bytes())
        vouch(copy)
        with pytest.raises(BundleError):
            bundle.load(copy)
        assert not canary.exists(), name
        disguised = tmp_path / "disguised.safetensors"
        disguised.write_bytes(path.read_bytes())
        with pytest.raises(WeightsError):
            read_state(str(disguised))
        assert not canary.exists(), name
    assert not (tmp_path.parent / "escaped").exists()
    with open(tmp_path / "plain2.pth", "rb") as file, contextlib.suppress(Exception):
        pickle.load(file)
    assert canary.exists()


def state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.save({"state_dict": state(), "epoch": 3}, folder / "zip.pth")
    torch.save(state(), folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state(), folder / "new.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "new.safetensors"])
@given(damage=damages)
@TRIED
def test_a_damaged_checkpoint_is_tensors_or_a_weights_error(
    tmp_path: Path, checkpoints, name: str, damage: Damage
):
    path = tmp_path / name
    path.write_bytes(damage(checkpoints[name]))
    try:
        loaded = read_state(str(path))
    except WeightsError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.values())


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
PIECES = [
    *OPCODES,
    *(b"cos\nsystem\n", b"cbuiltins\nopen\n", b"cposix\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"V/tmp/x\n", b"\x8c\x02os\x8c\x06system\x93", b"(", b"tR.", b"}", b"]", b"."),
]


@pytest.mark.filterwarnings("ignore")
@given(pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=12))
@TRIED
def test_any_pickle_is_refused(tmp_path: Path, monkeypatch, pieces: list[bytes]):
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    path = tmp_path / "any.pth"
    path.write_bytes(b"\x80\x02" + b"".join(pieces))
    with pytest.raises(WeightsError):
        read_state(str(path))
    assert ran == []
