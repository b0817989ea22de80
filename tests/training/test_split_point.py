from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from threading import Thread

import pytest
import timm
import torch
import torchvision
from timm.models import group_parameters
from torch import Tensor, fx, nn
from torch.nn import functional

from tlsearch.contracts import LinearHead
from tlsearch.training.split_point import SplitPoint, find_split_point, find_split_points, shared_prefix
from tlsearch.training.trained_part import set_modes, trainable_names


class Model(nn.Module):
    """What strategies are given: a trunk with a new head."""

    def __init__(self, trunk: nn.Module, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = LinearHead(width, 5, dropout=dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(inputs))
        return logits


def build(name: str, *, dropout: float = 0.0, **options: object) -> tuple[Model, list[list[str]], Tensor]:
    """A model with random weights that aren't all alike, its parameter groups, and three images."""
    torch.manual_seed(0)
    size = 224 if name == "levit_128s" else 64
    if name.startswith("torchvision/"):
        trunk = getattr(torchvision.models, name.removeprefix("torchvision/"))()
        if name.endswith("alexnet"):
            trunk.classifier[6] = nn.Identity()
        else:
            trunk.fc = nn.Identity()
        order = list(dict.fromkeys(parameter.rpartition(".")[0] for parameter, _ in trunk.named_parameters()))
        groups = [
            [n for n, _ in trunk.named_parameters() if n.rpartition(".")[0] == layer] for layer in order
        ]
    else:
        if "vit_" in name or "swin" in name:
            options["img_size"] = size
        trunk = timm.create_model(name, num_classes=0, **options)
        layers = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
        groups = [[n for n, own in layers.items() if own == layer] for layer in sorted(set(layers.values()))]
    with torch.no_grad():
        for module in trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
        images = torch.randn(3, 3, size, size)
        width = trunk.eval()(images[:1]).shape[1]
    return Model(trunk, width, dropout), groups, images


def freeze(model: Model, groups: list[list[str]], depth: float) -> None:
    count = round(depth * len(groups))
    parameters = dict(model.trunk.named_parameters())
    for index, names in enumerate(groups):
        for name in names:
            parameters[name].requires_grad_(index >= count)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ARCHITECTURES = [
    "tf_efficientnet_lite0",
    "resnet18",
    "vit_tiny_patch16_224",
    "torchvision/alexnet",
    "torchvision/resnet18",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("resnetv2_50", "convnext_atto", "densenet121", "mobilevit_xxs", "levit_128s")
    ),
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_split_model_computes_what_the_whole_one_does(name: str) -> None:
    model, groups, images = build(name)
    frozen_flops = []
    for depth in (0.25, 0.5, 0.75, 1.0):
        freeze(model, groups, depth)
        split_point = find_split_point(model, images[:1])
        assert split_point.frozen, split_point.reason
        assert split_point.reason == ""
        frozen_flops.append(split_point.prefix_flops)
        model.eval()
        for batch in (images, images[:2]):
            boundary = tuple(tensor.clone() for tensor in split_point.prefix(batch))
            assert [tuple(tensor.shape[1:]) for tensor in boundary] == list(split_point.shapes)
            assert torch.equal(split_point.eval_forward(boundary), model(batch))
    assert frozen_flops == sorted(frozen_flops)
    assert frozen_flops[0] < frozen_flops[-1]
    assert len(split_point.boundary) == 1  # all but the head is frozen: the pooled features are enough
    assert len(split_point.shapes[0]) == 1


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "torchvision/alexnet"])
def test_training_the_suffix_trains_the_model(name: str) -> None:
    model, groups, images = build(name)
    freeze(model, groups, 0.6)
    twin = copy.deepcopy(model)
    targets = torch.tensor([0, 3, 1])

    set_modes(twin)
    torch.autograd.backward(functional.cross_entropy(twin(images), targets))

    split_point = find_split_point(model, images[:2])
    set_modes(model, split_point.resting)
    outputs = split_point.train_forward(split_point.prefix(images))
    torch.autograd.backward(functional.cross_entropy(outputs, targets))

    for (name_, one), two in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None) == (not one.requires_grad), name_
        if one.grad is not None and two.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, msg=name_)
    for (name_, one), two in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name_)


def test_random_layers_of_the_suffix_are_random_and_those_of_the_prefix_rest() -> None:
    model, groups, images = build("convnext_atto", dropout=0.5, drop_path_rate=0.3)
    freeze(model, groups, 0.5)
    split_point = find_split_point(model, images)
    set_modes(model, split_point.resting)
    boundary = split_point.prefix(images)
    assert torch.equal(boundary[0], split_point.prefix(images)[0])
    torch.manual_seed(1)
    whole = model(images)
    torch.manual_seed(1)
    assert torch.equal(split_point.train_forward(boundary), whole)
    assert not torch.equal(split_point.train_forward(boundary), whole)
    assert torch.equal(split_point.eval_forward(boundary), split_point.eval_forward(boundary))


@pytest.mark.parametrize(
    ("trained", "shape", "awake"), [(1, (9216,), {0, 3}), (4, (4096,), {3}), (6, (4096,), set())]
)
def test_alexnets_dropouts_fall_on_the_right_side(trained: int, shape: tuple[int], awake: set[int]) -> None:
    # classifier: 0 dropout, 1 linear, 2 relu, 3 dropout, 4 linear, 5 relu, 6 linear
    model = torchvision.models.alexnet(num_classes=5).requires_grad_(False)
    for layer in list(model.classifier)[trained:]:
        layer.requires_grad_(True)
    images = torch.randn(2, 3, 64, 64)
    split_point = find_split_point(model, images)
    set_modes(model, split_point.resting)
    assert split_point.shapes == (shape,)
    assert {index for index in (0, 3) if model.classifier[index].training} == awake
    boundary = split_point.prefix(images)
    assert torch.equal(boundary[0], split_point.prefix(images)[0])
    random = not torch.equal(split_point.train_forward(boundary), split_point.train_forward(boundary))
    assert random == bool(awake)


def test_statistics_of_frozen_norms_stay_and_those_of_trained_ones_move() -> None:
    model, groups, images = build("resnet18")
    freeze(model, groups, 0.5)
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    split_point = find_split_point(model, images)
    assert all(torch.equal(before[name], norm.running_mean) for name, norm in norms.items())
    set_modes(model, split_point.resting)
    split_point.train_forward(split_point.prefix(images))
    for name, norm in norms.items():
        assert torch.equal(before[name], norm.running_mean) == (id(norm.weight) in frozen), name


def test_two_heads_return_a_tuple() -> None:
    class TwoHeads(Model):
        def __init__(self, trunk: nn.Module, width: int) -> None:
            super().__init__(trunk, width)
            self.source = nn.Linear(width, 7)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            features = self.trunk(inputs)
            return self.head(features), self.source(features)

    single, groups, images = build("resnet18")
    model = TwoHeads(single.trunk, 512)
    freeze(model, groups, 1.0)
    split_point = find_split_point(model, images)
    outputs = split_point.eval_forward(split_point.prefix(images))
    assert isinstance(outputs, tuple)
    assert [output.shape for output in outputs] == [(3, 5), (3, 7)]
    assert all(map(torch.equal, outputs, model.eval()(images)))


class Branching(nn.Module):
    """Looks at values, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4).requires_grad_(False)
        self.second = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.second(hidden if hidden.sum() > 0 else -hidden)


class Noisy(Branching):
    """Draws a number that a trace would make a constant."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs) + torch.rand(4))


class Mixing(Branching):
    """Lets items see each other before the cut."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.second(hidden - hidden.mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Branching, "tracing failed"), (Noisy, "random numbers"), (Mixing, "other items of its batch")],
)
def test_a_model_that_cannot_be_split_runs_whole_and_says_why(kind: type[nn.Module], why: str) -> None:
    model = kind()
    inputs = torch.randn(3, 4)
    split_point = find_split_point(model, inputs)
    assert not split_point.frozen
    assert why in split_point.reason
    assert split_point.prefix(inputs)[0] is inputs
    assert split_point.shapes == ((4,),)
    assert split_point.suffix_flops > 0
    set_modes(model, split_point.resting)
    split_point.train_forward((inputs,)).sum().backward()
    assert model.second.weight.grad is not None  # type: ignore[union-attr]


class Disturbed(Branching):
    """Another thread draws once from the process's random generator while its graph is being traced."""

    disturbed = False

    def forward(self, inputs: Tensor) -> Tensor:
        if isinstance(inputs, fx.Proxy) and not Disturbed.disturbed:
            Disturbed.disturbed = True
            thread = Thread(target=random.random)
            thread.start()
            thread.join()
        return self.second(self.first(inputs))


def test_what_another_thread_draws_is_not_held_against_a_model() -> None:
    split_point = find_split_point(Disturbed(), torch.randn(3, 4))
    assert Disturbed.disturbed
    assert split_point.frozen


def test_where_nothing_is_frozen_the_model_runs_whole() -> None:
    model, _, images = build("resnet18")
    split_point = find_split_point(model, images)
    assert not split_point.frozen
    assert split_point.reason == "no layer before the trained ones is frozen"
    assert torch.equal(split_point.eval_forward(split_point.prefix(images)), model.eval()(images))


def test_where_nothing_trains_the_output_is_the_boundary() -> None:
    model, _, images = build("resnet18")
    model.requires_grad_(False)
    split_point = find_split_point(model, images)
    assert split_point.shapes == ((5,),)
    assert torch.equal(split_point.eval_forward(split_point.prefix(images)), model.eval()(images))


def test_a_dense_networks_boundary_holds_no_feature_twice() -> None:
    model, groups, images = build("densenet121")
    freeze(model, groups, 0.25)
    split_point = find_split_point(model, images[:1])
    channels = [shape[0] for shape in split_point.shapes]
    assert max(channels) == 128  # the block's input, not the concatenation of it with what came after
    assert channels.count(128) == 1


def test_the_key_depends_on_the_prefix_alone() -> None:
    def split_point(depth: float, *, head: float = 0.0, touch: str = "") -> SplitPoint:
        model, groups, images = build("tf_efficientnet_lite0", dropout=head)
        if touch:
            model.get_parameter(touch).data += 1e-3
        freeze(model, groups, depth)
        return find_split_point(model, images[:1])

    key = split_point(0.5).key
    assert split_point(0.5, head=0.4).key == key
    assert split_point(0.5, touch="trunk.conv_head.weight").key == key
    assert split_point(0.5, touch="trunk.conv_stem.weight").key != key
    assert split_point(0.7).key != key


def test_the_key_depends_on_settings_that_are_no_weights() -> None:
    keys = set()
    for stride in (1, 2):
        torch.manual_seed(0)
        frozen = nn.Conv2d(3, 4, 3, stride=stride).requires_grad_(False)
        model = nn.Sequential(frozen, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        keys.add(find_split_point(model, torch.randn(2, 3, 8, 8)).key)
    assert len(keys) == 2


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224", "torchvision/alexnet"])
def test_many_cuts_in_one_trace_are_those_found_one_by_one(name: str) -> None:
    model, groups, images = build(name, **({} if "/" in name else {"drop_path_rate": 0.2}))
    depths = (0.3, 0.5, 0.8, 1.0)
    marks, keys = [], []
    for depth in depths:
        freeze(model, groups, depth)
        marks.append(trainable_names(model))
        keys.append(find_split_point(model, images[:1]).key)
    model.requires_grad_(True)
    found, why = find_split_points(model, images[:1], marks)
    assert not why
    assert [split_point.key for split_point in found] == keys
    assert all(parameter.requires_grad for parameter in model.parameters())
    for split_point, boundary in zip(found, shared_prefix(found)(images), strict=True):
        assert all(map(torch.equal, boundary, split_point.prefix(images)))


def test_a_search_for_the_split_point_leaves_the_model_as_it_was() -> None:
    model, groups, images = build("levit_128s")
    freeze(model, groups, 0.5)
    model.train()
    model.trunk.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    generator = torch.get_rng_state()
    find_split_point(model, images[:1])
    assert [module.training for module in model.modules()] == modes
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model(images).shape == (3, 5)


class Caching(nn.Module):
    """Keeps a product of its weights in eval mode until it trains again, as LeViT does its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Caching:
        super().train(mode)
        if mode:
            self.cache.clear()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            return inputs * (self.weight * 2)
        if "product" not in self.cache:
            self.cache["product"] = self.weight * 2
        return inputs * self.cache["product"]


def test_tracing_leaves_no_symbols_in_caches() -> None:
    model = nn.Sequential(Caching().requires_grad_(False), nn.Linear(4, 2)).eval()
    inputs = torch.randn(3, 4)
    split_point = find_split_point(model, inputs)
    assert split_point.frozen, split_point.reason
    assert all(type(value) is Tensor for value in model[0].cache.values())
    assert torch.equal(model(inputs), split_point.eval_forward(split_point.prefix(inputs)))


@pytest.mark.parametrize("traceable", [True, False])
def test_evaluation_sees_what_training_changed(traceable: bool) -> None:
    last = nn.Linear(4, 2) if traceable else Branching()
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), Caching(), last)
    inputs = torch.randn(3, 4)
    split_point = find_split_point(model, inputs)
    assert split_point.frozen == traceable
    boundary = split_point.prefix(inputs)
    set_modes(model, split_point.resting)
    before = split_point.eval_forward(boundary)
    with torch.no_grad():
        model[1].weight.mul_(3)
    after = split_point.eval_forward(boundary)
    assert not torch.equal(before, after)
    assert torch.equal(after, model.eval()(inputs))
    with torch.no_grad():
        model[1].weight.mul_(3)
    set_modes(model, split_point.resting)
    assert not torch.equal(after, model.eval()(inputs))


def test_channels_last_is_kept_across_the_boundary() -> None:
    model, groups, images = build("tf_efficientnet_lite0")
    model.to(memory_format=torch.channels_last)
    freeze(model, groups, 0.5)
    split_point = find_split_point(model, images[:1])
    assert split_point.boundary[0].channels_last
    assert split_point.prefix(images)[0].is_contiguous(memory_format=torch.channels_last)
