"""The contract of a backbone family, as tests to inherit."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import Backbone, BackboneFamily, InputSpec, Pretrained, frozen_groups
from tlsearch.contracts.backbone import hash_tensors
from tlsearch.counts import kind_of, plural
from tlsearch.errors import PluginError, UnknownNameError, WeightsError
from tlsearch.testing import fixtures
from tlsearch.testing.attempts import watched
from tlsearch.testing.contract import CheckResult, Contract, demand, in_fresh_process, results, skip
from tlsearch.testing.demands import difference
from tlsearch.training.split_point import find_split_point

CLASSES = 5
NOT_A_VARIANT = "no-such-variant"


class BackboneContract(Contract):
    """All that a backbone promises. Inherit it, say which one, and let pytest run it.

    Attributes:
        backbone: its whole name, ``family/variant``.
        weights: ``random``, ``pretrained`` where that needs no network, or a file.
        image_size: as in a study's data section; small ones make it quicker.
    """

    backbone: ClassVar[str]
    weights: ClassVar[str] = "random"
    image_size: ClassVar[int | None] = None

    @classmethod
    def _find(cls) -> None:
        """Find the family."""
        registry.backbone_family(cls.backbone.partition("/")[0])

    def test_names(self) -> None:
        """The family lists its variants, and refuses one that isn't there by UnknownNameError."""
        family = self._family
        names = list(family.names())
        demand(all(isinstance(name, str) and name for name in names), f"names() holds {names[:5]}")
        demand(len(set(names)) == len(names), "names() lists a name twice")
        try:
            family.load(NOT_A_VARIANT, weights="random", image_size=None)
        except UnknownNameError:
            self.note(plural(len(names), "variant"))
            return
        except Exception as error:
            raise AssertionError(
                f'load() lets the unknown variant "{NOT_A_VARIANT}" get as far as {type(error).__name__}: '
                f"{error}; right is an UnknownNameError before anything is built"
            ) from error
        raise AssertionError(f'load() accepts the variant "{NOT_A_VARIANT}"')

    def test_missing_weights_are_an_error(self) -> None:
        """A weights file that isn't there raises WeightsError; weights are never silently random."""
        missing = str(Path(tempfile.gettempdir()) / "tlsearch-no-such-weights.safetensors")
        try:
            self._family.load(self._variant, weights=missing, image_size=self.image_size)
        except WeightsError:
            return
        except Exception as error:
            raise AssertionError(
                f"a missing weights file raises {type(error).__name__}, not WeightsError: {error}"
            ) from error
        raise AssertionError("load() takes a weights file that isn't there")

    def test_structure_asks_no_network(self) -> None:
        """What a saved model's weights go into is built offline, with the same names and shapes."""
        loaded = self._loaded
        with watched() as seen:
            built = self._family.structure(
                self._variant, image_size=self.image_size, architecture=loaded.info.architecture
            )
        demand(not seen.network, f"structure() asks the network: {', '.join(seen.network[:3])}")
        shapes = [
            {name: tuple(tensor.shape) for name, tensor in trunk.state_dict().items()}
            for trunk in (built.trunk, loaded.trunk)
        ]
        demand(shapes[0] == shapes[1], "structure() builds a network of other tensors than load()")
        demand(built.info.inputs.shape == loaded.info.inputs.shape, "structure() takes inputs of other shape")

    def test_info(self) -> None:
        """What it says of itself is so: name, groups, parameters, operations, hash."""
        info, trunk = self._loaded.info, self._loaded.trunk
        names = [name for name, _ in trunk.named_parameters()]
        listed = [name for group in info.groups for name in group]
        demand(info.name == self.backbone, f'info.name is "{info.name}", not "{self.backbone}"')
        demand(info.weights == self.weights, f'info.weights is "{info.weights}", not "{self.weights}"')
        demand(sorted(listed) == sorted(names), "info.groups don't hold every parameter exactly once")
        demand(len(info.groups) == len(info.group_names), "info.group_names has another length than groups")
        demand(all(info.groups), "info.groups has an empty group")
        count = sum(parameter.numel() for parameter in trunk.parameters())
        demand(info.parameters == count, f"info.parameters is {info.parameters}, the trunk has {count}")
        demand(info.flops > 0, "info.flops is 0")
        demand(info.weights_sha256 == hash_tensors(trunk.state_dict()), "info.weights_sha256 is another's")
        self.note(f"{plural(len(info.groups), 'group')}, {count:,} parameters, {info.width} features")

    def test_input(self) -> None:
        """Encoded items have the declared shape and dtype; a description rebuilds the same input."""
        inputs = self._loaded.info.inputs
        example = inputs.example(3)
        demand(tuple(example.shape) == (3, *inputs.shape), f"example(3) is {tuple(example.shape)}")
        demand("none" in inputs.policies, "policies lacks none")
        again = type(inputs)(**inputs.to_json())
        demand(torch.equal(again.to_model(example), inputs.to_model(example)), "to_json() loses something")
        for policy in inputs.policies:
            draws = inputs.draw(policy, 3, seed=0, mirror=True)
            if draws is None:
                continue
            changed = inputs.augment(example, policy, draws)
            same = changed.shape == example.shape and changed.dtype == example.dtype
            demand(same, f'augment("{policy}") changes shape or dtype')
        items = {"image": np.full((20, 30, 3), 200, np.uint8), "text": "Labelled texts, for example."}
        if inputs.modality in items:
            encoded = inputs.encode(items[inputs.modality])
            fits = encoded.shape == inputs.shape and encoded.dtype == np.dtype(inputs.dtype)
            demand(fits, f"encode() gives {encoded.shape} of {encoded.dtype}")

    def test_features(self) -> None:
        """The trunk maps any batch to finite features (B, width), each item for itself."""
        info, trunk = self._loaded.info, self._loaded.trunk.eval()
        batch = self._batch(3)
        with torch.inference_mode():
            features = trunk(batch)
            alone = torch.cat([trunk(batch[index : index + 1]) for index in range(3)])
        demand(isinstance(features, Tensor), f"the trunk returns {kind_of(features)}")
        wanted = (3, info.width)
        demand(tuple(features.shape) == wanted, f"features are {tuple(features.shape)}, not {wanted}")
        demand(bool(features.isfinite().all()), "features aren't finite")
        far = difference(features, alone)
        demand(far < 1e-3, f"an item's features depend on its batch: they differ by {far:.1e}")

    def test_source_head(self) -> None:
        """The classifier that the weights came with, where there is one, takes the features."""
        head = self._loaded.source_head
        if head is None:
            raise skip("it brings no classifier")
        with torch.inference_mode():
            logits = head.eval()(self._loaded.trunk.eval()(self._batch(2)))
        demand(isinstance(logits, Tensor) and logits.ndim == 2, "source_head doesn't give logits (B, C)")
        self.note(f"{plural(logits.shape[1], 'source class', 'source classes')}")

    def test_every_freeze_depth_trains(self) -> None:
        """k of n groups freeze, and every parameter that is left to train gets a gradient."""
        count = len(self._loaded.info.groups)
        for depth in (0.0, 0.5, 1.0):
            model = Backbone(self._loaded, *fixtures.classes(CLASSES))
            frozen = model.freeze(depth)
            demand(frozen == frozen_groups(depth, count), f"freeze({depth}) froze {frozen} of {count} groups")
            model(self._batch(2)).square().sum().backward()
            without = [
                name
                for name, parameter in model.named_parameters()
                if parameter.requires_grad and parameter.grad is None
            ]
            demand(not without, f"at depth {depth} no gradient reaches {without[:3]}")

    def test_frozen_prefix(self) -> None:
        """Its frozen layers can be computed once and stored; where not, it says why and is slower."""
        model = Backbone(self._loaded, *fixtures.classes(CLASSES))
        model.freeze(0.5)
        split_point = find_split_point(model, self._batch(2))
        model.eval()  # it leaves the model ready to train
        if not split_point.frozen:
            self.note(f"runs without the cache: {split_point.reason}")
            return
        batch = self._batch(3)
        with torch.inference_mode():
            far = difference(model(batch), split_point.eval_forward(split_point.prefix(batch)))
        demand(far < 1e-3, f"prefix and suffix aren't the whole model: outputs differ by {far:.1e}")

    def test_learns(self) -> None:
        """A few steps on eight items lower their loss."""
        torch.manual_seed(0)
        model = Backbone(self._loaded, *fixtures.classes(CLASSES))
        model.freeze(0.0)
        model.train()
        batch, labels = self._batch(8), torch.arange(8) % CLASSES
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        demand(min(losses[1:]) < losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
        self.note(f"loss {losses[0]:.2f} to {losses[-1]:.2f}")

    def test_the_same_in_another_process(self) -> None:
        """A fresh process finds it by name, with equal weights (random ones too) and features."""
        found = in_fresh_process(
            self._folder,
            {
                "kind": "backbone",
                "name": self.backbone,
                "weights": self.weights,
                "image_size": self.image_size,
            },
        )
        own = self._loaded.info.weights_sha256
        demand(found["weights_sha256"] == own, f'"{self.weights}" weights are others in a fresh process')
        with torch.inference_mode():
            features = self._loaded.trunk.eval()(self._batch(2))
        far = difference(features, torch.tensor(found["features"]))
        demand(far < 1e-3, f"features differ by {far:.1e} in a fresh process")

    @property
    def _family(self) -> BackboneFamily:
        return registry.backbone_family(self.backbone.partition("/")[0])

    @property
    def _variant(self) -> str:
        return self.backbone.partition("/")[2]

    @property
    def _loaded(self) -> Pretrained:
        return _load(self.backbone, self.weights, self.image_size)

    def _batch(self, count: int) -> Tensor:
        inputs: InputSpec = self._loaded.info.inputs
        return inputs.to_model(inputs.example(count))


def check_backbone(
    backbone: str, *, weights: str = "random", image_size: int | None = None
) -> list[CheckResult]:
    """Run the contract of a backbone, without pytest.

    Args:
        backbone: its whole name, or a family's: then its first variant is checked.
        weights: as in a study file.
        image_size: in pixels.

    Raises:
        UnknownNameError: nothing installed goes by that name.
    """
    try:
        if "/" not in backbone:
            names = list(registry.backbone_family(backbone).names())
            if not names:
                return [CheckResult("names", False, "names() is empty: give the whole name", 0.0)]
            backbone = f"{backbone}/{names[0]}"
        values = {"backbone": backbone, "weights": weights, "image_size": image_size}
        contract: Any = type("Checked", (BackboneContract,), values)
        found = results(contract)
    except PluginError as error:
        return [CheckResult("loads", False, error.message, 0.0)]
    return [dataclasses.replace(one, message=f"{backbone}: {one.message}") for one in found[:1]] + found[1:]


@functools.lru_cache(maxsize=1)
def _load(backbone: str, weights: str, image_size: int | None) -> Pretrained:
    return registry.backbone(backbone, weights=weights, image_size=image_size)
