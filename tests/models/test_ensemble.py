"""Bundles of several networks: what they compute, share and are read as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tlsearch import registry
from tlsearch.contracts import Backbone
from tlsearch.errors import BundleError, InputError
from tlsearch.models import bundle
from tlsearch.models.ensemble import Ensemble, share_frozen
from tlsearch.models.export.write import export
from tlsearch.testing import classes


def members(backbone: str = "tiny/net", *, count: int = 3, frozen: int = 2) -> list[Backbone]:
    """Networks whose first groups are the pretrained ones; the others, and the heads, differ."""
    pretrained = registry.backbone(backbone, weights="pretrained", image_size=None)
    made = []
    for seed in range(count):
        torch.manual_seed(seed)  # of the head
        network = Backbone(pretrained, *classes(3))
        free = {name for group in pretrained.info.groups[frozen:] for name in group}
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in network.named_parameters():
            if name.removeprefix("trunk.") in free or name.startswith("head."):
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        network.release_source()
        made.append(network.eval().requires_grad_(False))
    return made


def write(folder: Path, networks: list[Backbone], **changes: Any) -> Path:
    params = dict(registry.strategy("fine_tune").default(networks[0].info))
    manifest = {
        "classes": ["ant", "bee", "cat"],
        "image_size": None,
        "strategy": "fine_tune",
        "params": params,
        "metrics": {},
        "provenance": {},
    }
    bundle.write(folder, network=networks, manifest={**manifest, **changes})
    return folder


def pictures(count: int = 5, size: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def encoded(network: Backbone, items: list[np.ndarray]) -> torch.Tensor:
    inputs = network.info.inputs
    return inputs.to_model(torch.from_numpy(np.stack([inputs.encode(item) for item in items])))


@pytest.mark.parametrize("flips", [False, True])
def test_a_bundle_of_members_says_the_mean_of_their_probabilities(tmp_path: Path, flips: bool) -> None:
    networks = members()
    loaded = bundle.load(write(tmp_path / "bundle", networks, flips=flips))
    items = pictures()
    views = [items, [item[:, ::-1].copy() for item in items]][: 1 + flips]
    told = [network(encoded(network, view)).softmax(dim=1) for network in networks for view in views]
    np.testing.assert_allclose(loaded.predict_proba(items), torch.stack(told).mean(dim=0), atol=1e-6)
    assert (loaded.manifest.members, loaded.manifest.flips) == (3, flips)


def test_parts_weigh_alike_however_many_members_they_have(tmp_path: Path) -> None:
    networks = members()
    strategy = {
        "strategy": "fine_tune",
        "params": dict(registry.strategy("fine_tune").default(networks[0].info)),
    }
    recipes = [{**strategy, "members": 2, "scale": 1.0}, {**strategy, "members": 1, "scale": 3.0}]
    loaded = bundle.load(write(tmp_path / "bundle", networks, recipes=recipes))
    items = pictures()
    told = [network(encoded(network, items)) for network in networks]
    mean = (told[0].softmax(1) + told[1].softmax(1)) / 4 + (3 * told[2]).softmax(1) / 2
    np.testing.assert_allclose(loaded.predict_proba(items), mean, atol=1e-6)


@pytest.mark.parametrize(
    "recipes",
    [
        [{"strategy": "fine_tune", "params": {}, "members": 2, "scale": 1.0}],
        [{"strategy": "fine_tune", "params": {}, "members": 3, "scale": 0.0}],
        [{"strategy": "fine_tune", "params": {"deep": []}, "members": 3, "scale": 1.0}],
        [{"strategy": 3, "params": {}, "members": 3, "scale": 1.0}],
        [{"strategy": "fine_tune", "params": {}, "members": 3}],
        ["fine_tune"],
    ],
)
def test_recipes_that_make_no_sense_are_refused(tmp_path: Path, recipes: list[Any]) -> None:
    with pytest.raises(BundleError, match="is not a bundle's description"):
        bundle.load(write(tmp_path / "bundle", members(), recipes=recipes))


def test_layers_that_all_members_froze_are_stored_and_run_once(tmp_path: Path) -> None:
    """Counted: how often a frozen convolution runs, and how many tensors the file has of it."""
    from safetensors import safe_open

    place = write(tmp_path / "bundle", members())
    loaded = bundle.load(place)
    assert isinstance(loaded.network, Ensemble)
    assert loaded.network.reused > 0
    runs = {3: 0, 8: 0, 16: 0}

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        runs[module.in_channels] += 1

    for module in loaded.network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    loaded.logits(pictures())
    assert runs == {3: 1, 8: 1, 16: 3}  # two frozen blocks once, the third one in each member
    with safe_open(place / bundle.WEIGHTS, framework="pt") as file:
        names = [name for name in file.keys() if name.endswith("blocks.0.0.weight")]  # noqa: SIM118
    assert names == ["shared.trunk.blocks.0.0.weight"]


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_sharing_changes_no_bit(frozen: int) -> None:
    alone = [network(torch.ones(2, 3, 16, 16)) for network in members(frozen=frozen)]
    shared = Ensemble(members(frozen=frozen))
    for one, two in zip(
        alone, shared.looks(torch.ones(2, 3, 16, 16), mirrored=False)[:, 0].unbind(1), strict=True
    ):
        assert torch.equal(one, two)
    assert (shared.reused > 0) is (frozen > 0)


def test_a_real_backbone_shares_its_frozen_blocks() -> None:
    made = members("efficientnet_lite/lite0", count=2, frozen=9)
    inputs = made[0].info.inputs.to_model(made[0].info.inputs.example(2))
    alone = [network(inputs) for network in made]
    shared = Ensemble(made)
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in member.modules()) for member in shared.members]
    assert convolutions[1] < convolutions[0] - 15
    assert all(map(torch.equal, alone, shared.looks(inputs, mirrored=False)[:, 0].unbind(1)))


class Writer(nn.Module):
    """Writes into what the layer before put out, and uses it twice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        torch.manual_seed(seed)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs)
        return self.last(hidden.add_(1.0) * hidden)


def test_a_layer_whose_output_is_written_into_is_read_as_it_was() -> None:
    made = nn.ModuleList([Writer(seed) for seed in range(3)]).eval()
    inputs = torch.randn(2, 4)
    alone = [member(inputs) for member in made]
    assert share_frozen(made, torch.randn(2, 4)) == 2, "the first layer, in two further members"
    from tlsearch.models.ensemble import _run

    assert all(map(torch.equal, alone, _run(made, inputs)))


class Looker(nn.Module):
    """A head on what an inner layer and the last one put out, as `head2toe` has it."""

    def __init__(self, seed: int, *, tuned: bool = False, looks: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
        torch.manual_seed(seed)
        if tuned:
            self.trunk[2] = nn.Linear(4, 4)
        self.head = nn.Linear(8, 3)
        self.seen = torch.zeros(1, 4)
        if looks:
            self.trunk[1].register_forward_hook(self.note)

    def note(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.seen = output

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output = self.trunk(inputs)
        return self.head(torch.cat([output, self.seen.expand_as(output)], dim=1))


@pytest.mark.parametrize(
    ("made", "runs"),
    [
        ([Looker(1), Looker(2), Looker(3)], 3),
        ([Looker(1, looks=False), Looker(2, looks=False), Looker(3, looks=False)], 3),
        # The heads' last layer is the second one's own: the fine-tuned first one has another.
        ([Looker(1, tuned=True), Looker(2), Looker(3), Looker(4, tuned=True)], 5),
        ([Looker(1, tuned=True, looks=False), Looker(2, looks=False), Looker(3, looks=False)], 4),
    ],
)
def test_a_layer_runs_once_whoever_looks_at_it_and_whatever_others_trained(
    made: list[nn.Module], runs: int
) -> None:
    """Counted: how often a layer of a trunk runs, for one batch and all members."""
    from tlsearch.models.ensemble import _run

    networks = nn.ModuleList(made).eval()
    inputs = torch.randn(2, 4)
    alone = [network(inputs) for network in networks]
    counted: list[str] = []
    share_frozen(networks, torch.randn(2, 4))
    for name, layer in networks.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features == 4:
            layer.register_forward_hook(lambda *_, name=name: counted.append(name))
    assert all(map(torch.equal, alone, _run(networks, inputs)))
    assert len(counted) == runs, counted


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.slow
def test_exports_say_what_the_members_say(tmp_path: Path, flips: bool) -> None:
    loaded = bundle.load(write(tmp_path / "bundle", members(), flips=flips))
    files = []
    for number, picture in enumerate(pictures(4, size=20)):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(files[-1])
    done = export(loaded, tmp_path / "out", ["onnx", "torch"], items=files)
    assert [one.checked.pictures for one in done] == [4, 4]
    with pytest.raises(InputError, match="averages 3 networks, and a timm model is one network"):
        export(loaded, tmp_path / "timm", ["timm"], items=files)


def test_a_format_2_bundle_is_read_as_one_network(tmp_path: Path) -> None:
    """Written as that version wrote it: no word of members."""
    from safetensors.torch import load_file, save_file

    (network,) = members(count=1)
    place = write(tmp_path / "bundle", [network])
    document = json.loads((place / bundle.MANIFEST).read_text())
    for name in ("members", "flips", "trained_on"):
        document.pop(name, None)
    document["format"] = 2
    state = load_file(place / bundle.WEIGHTS)
    save_file(state, place / bundle.WEIGHTS, {"tlsearch.description": bundle.digest_of(document)})
    from tlsearch.files import sha256_of

    document["sha256"] = sha256_of(place / bundle.WEIGHTS)
    document["bytes"] = (place / bundle.WEIGHTS).stat().st_size
    (place / bundle.MANIFEST).write_text(json.dumps(document))
    loaded = bundle.load(place)
    assert loaded.manifest.members == 1
    np.testing.assert_allclose(
        loaded.logits(pictures()),
        network(encoded(network, pictures())),
        atol=1e-6,
    )


@pytest.mark.parametrize("count", [0, 2, 10**9])
def test_a_wrong_number_of_members_is_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(BundleError):
        bundle.load(write(tmp_path / "bundle", members(count=1), members=count))
