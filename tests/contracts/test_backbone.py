"""How a strategy looks back at the pretrained network, on the tiny CNN that ships for tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tlsearch.contracts import Backbone, opaque
from tlsearch.testing import classes
from tlsearch.testing.fixtures import tiny_cnn
from tlsearch.training.split_point import find_split_point

IMAGES = torch.rand(2, 3, 16, 16)


class Both(nn.Module):
    def forward(self, features: Tensor, source: Tensor) -> Tensor:
        return torch.cat([features, source], dim=1)


def test_the_trunk_is_a_copy_and_the_reference_is_not():
    pretrained = tiny_cnn()
    model = Backbone(pretrained, *classes(3))
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.add_(1)
    state = pretrained.trunk.state_dict()
    assert list(model.reference) == list(state)
    for name, tensor in model.trunk.named_parameters():
        assert model.reference[name].data_ptr() == state[name].data_ptr()
        assert torch.equal(model.reference[name] + 1, tensor)
        assert not model.reference[name].requires_grad
    assert not any("reference" in name or "source" in name for name in model.state_dict())


def test_the_source_runs_beside_the_trunk_and_belongs_to_the_frozen_prefix():
    model = Backbone(tiny_cnn(), *classes(3))
    model.keep_source()
    model.head = Both()
    own, source = model.eval()(IMAGES).chunk(2, dim=1)
    assert torch.equal(own, source)
    split_point = find_split_point(model, IMAGES)
    assert split_point.frozen
    assert (64,) in split_point.shapes
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.add_(1)
    own, again = model(IMAGES).chunk(2, dim=1)
    assert torch.equal(again, source)
    assert not torch.equal(own, source)
    model.source_trunk, model.head = None, nn.Identity()
    assert torch.equal(model(IMAGES), own)


def test_a_finished_model_looks_back_no_more():
    model = Backbone(tiny_cnn(), *classes(3))
    assert model.source_head is not None
    model.release_source()
    assert model.source_head is None
    assert not model.reference
    with pytest.raises(ValueError, match="finished model"):
        model.keep_source()


class Branching(nn.Module):
    """Asks for a dtype, which a trace doesn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features if features.dtype == torch.float32 else features.float())


def test_an_opaque_module_is_one_operation_behind_the_frontier():
    model = Backbone(tiny_cnn(), *classes(3))
    model.freeze(1.0)
    model.head = Branching()
    assert "TraceError" in find_split_point(model, IMAGES).reason
    model.head = opaque(Branching())
    split_point = find_split_point(model, IMAGES)
    assert (split_point.frozen, split_point.reason) == (True, "")
    model.eval()
    assert torch.equal(split_point.eval_forward(split_point.prefix(IMAGES)), model(IMAGES))
