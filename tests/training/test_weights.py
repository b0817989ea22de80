from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.files import sha256_of
from tlsearch.models.rebuild import fill
from tlsearch.testing import classes
from tlsearch.training import weights


def model() -> Backbone:
    torch.manual_seed(0)
    return Backbone(registry.backbone("tiny/net", weights="pretrained", image_size=None), *classes(3))


def test_only_what_differs_from_the_pretrained_trunk_is_saved():
    trained, original = model(), model().trunk
    assert set(weights.changed(trained, original)) == {"head.linear.weight", "head.linear.bias"}
    with torch.no_grad():
        trained.trunk.blocks[2][0].weight[0, 0, 0, 0] += 1e-6
        trained.trunk.blocks[1][1].running_mean += 1
    assert set(weights.changed(trained, original)) == {
        *("head.linear.weight", "head.linear.bias"),
        *("trunk.blocks.2.0.weight", "trunk.blocks.1.1.running_mean"),
    }


def test_parts_that_the_trunk_never_had_are_saved():
    trained, original = model(), model().trunk
    trained.trunk.adapter = nn.Linear(2, 2)
    assert {"trunk.adapter.weight", "trunk.adapter.bias"} <= set(weights.changed(trained, original))


def test_what_is_saved_comes_back(tmp_path):
    trained = model().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))
    path = tmp_path / "trials" / "a.safetensors"
    artifact = weights.save(str(path), weights.changed(trained, model().trunk))
    assert artifact.uri == str(path)
    assert artifact.bytes == path.stat().st_size
    assert artifact.sha256 == sha256_of(path)
    other = model()
    fill(other, load_file(path), complete=False)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(other.eval()(images), trained.eval()(images), atol=1e-5)


def test_tensors_that_share_memory_are_saved(tmp_path):
    tied = nn.Linear(3, 3)
    state = {"a": tied.weight.detach(), "b": tied.weight.detach(), "c": tied.weight.detach()[0]}
    weights.save(str(tmp_path / "w"), state)
    loaded = load_file(tmp_path / "w")
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "trials").write_text("in the way")
    with pytest.raises(OSError, match="trials"):
        weights.save(str(tmp_path / "trials" / "a.safetensors"), {"a": torch.zeros(1)})
    assert [path.name for path in Path(tmp_path).iterdir()] == ["trials"]
