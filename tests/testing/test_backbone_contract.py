"""Backbones that break the contract are told so, check by check."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tlsearch.errors import UnknownNameError
from tlsearch.testing import BackboneContract, check_backbone, fixtures, tiny_cnn, tiny_task, tiny_vit


class TestTinyViT(BackboneContract):
    backbone = "testing/vit"
    weights = "pretrained"


class Careless(fixtures.TinyBackbones):
    """Takes any variant and any weights."""

    def load(self, variant, *, weights, image_size):
        loaded = super().load("cnn", weights="random", image_size=image_size)
        return replace(loaded, info=replace(loaded.info, name=f"broken/{variant}", weights=weights))


class Wide(Careless):
    def load(self, variant, *, weights, image_size):
        loaded = super().load(variant, weights=weights, image_size=image_size)
        return replace(loaded, info=replace(loaded.info, width=7, parameters=3))


class Centred(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, images):
        features = self.trunk(images)
        return features - features.mean(dim=0)


class Mixing(Careless):
    """Its features depend on the batch."""

    def load(self, variant, *, weights, image_size):
        loaded = super().load(variant, weights=weights, image_size=image_size)
        return replace(loaded, trunk=Centred(loaded.trunk))


class Deaf(nn.Module):
    """Its features are detached."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def forward(self, images):
        return self.trunk(images).detach()


class Detached(Careless):
    def load(self, variant, *, weights, image_size):
        loaded = super().load(variant, weights=weights, image_size=image_size)
        info = replace(
            loaded.info, groups=tuple(tuple(f"trunk.{n}" for n in group) for group in loaded.info.groups)
        )
        return replace(loaded, info=info, trunk=Deaf(loaded.trunk))


class Raising(fixtures.TinyBackbones):
    def load(self, variant, *, weights, image_size):
        raise KeyError(variant)


@pytest.mark.parametrize(
    ("family", "check", "wanted"),
    [
        (Careless, "names", 'accepts the variant "no-such-variant"'),
        (Raising, "names", "get as far as KeyError: 'no-such-variant'; right is an UnknownNameError"),
        (Careless, "missing_weights_are_an_error", "takes a weights file that isn't there"),
        (Raising, "missing_weights_are_an_error", "raises KeyError, not WeightsError"),
        (Wide, "info", "info.parameters is 3"),
        (Wide, "features", "features are (3, 64), not (3, 7)"),
        (Mixing, "features", "an item's features depend on its batch"),
        (Detached, "every_freeze_depth_trains", "no gradient reaches"),
    ],
)
def test_a_broken_backbone_is_told_what_is_wrong(family, check, wanted):
    with fixtures.installed(backbones={"broken": family}):
        contract = type("Broken", (BackboneContract,), {"backbone": f"broken/{family.__name__}"})
        contract.setup_class()
        try:
            with pytest.raises(AssertionError) as caught:
                getattr(contract(), f"test_{check}")()
        finally:
            contract.teardown_class()
    assert wanted in str(caught.value)


def test_a_family_is_checked_by_its_first_variant_and_an_unknown_one_is_refused():
    with fixtures.installed():
        found = check_backbone("testing")
        assert found[0].message == "testing/cnn: 2 variants"
        assert all(result.ok for result in found), found
    with pytest.raises(UnknownNameError):
        check_backbone("testing")


@pytest.mark.parametrize("backbone", [tiny_cnn, tiny_vit])
def test_the_tiny_backbones_are_fresh_and_alike_at_each_call(backbone):
    first, second = backbone(), backbone()
    assert first.trunk is not second.trunk
    assert first.info == second.info
    with torch.inference_mode():
        assert first.trunk(tiny_task().inputs[:2]).shape == (2, first.info.width)


def test_the_tiny_task_is_whole():
    task = tiny_task()
    assert task.inputs.shape == (200, 3, 16, 16)
    assert task.val_inputs.shape == (100, 3, 16, 16)
    assert set(task.labels.tolist()) == set(task.val_labels.tolist()) == set(range(task.classes))
