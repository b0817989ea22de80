"""Two tiny backbones and a tiny real task, for tests that take seconds: `tiny_cnn`, `tiny_vit`, `tiny_task`.

The backbones have random weights, the same in every process, and see images of 16 x 16 pixels. Their modules
are called as timm calls its own, so that a strategy that looks for them by name finds them. The task is a
part of scikit-learn's handwritten digits. Inside `installed` all are resolved by name, here and in other
processes, through the same door as any plugin: as ``testing/cnn``, ``testing/vit`` and ``testing_digits``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tlsearch import registry
from tlsearch.contracts import (
    BackboneFamily,
    Combination,
    DatasetOptions,
    DatasetSource,
    Pretrained,
    Samples,
    Scores,
    Strategy,
    TargetSpec,
    describe,
)
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import UnknownNameError, WeightsError

SIZE = 16
CNN = "testing/cnn"
VIT = "testing/vit"
DIGITS = "testing_digits"
CLASSES = 10


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, ReLU, with a shortcut where the shape stays."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight)  # keeps the scale, as training would
        self.bn = nn.BatchNorm2d(after)
        self.shortcut = before == after and stride == 1

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, after, H / stride, W / stride) of maps (B, before, H, W)."""
        new = functional.relu(self.bn(self.conv(maps)))
        return new + maps if self.shortcut else new


class TinyCNN(nn.Module):
    """Four blocks: images (B, 3, S, S) to features (B, 64)."""

    width: ClassVar[int] = 64

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ConvBlock(3, 16, 1), ConvBlock(16, 32, 2), ConvBlock(32, 32, 1), ConvBlock(32, self.width, 2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Means of the last maps."""
        maps: Tensor = self.blocks(images)
        return maps.mean(dim=(2, 3))


class Attention(nn.Module):
    """Multi-head self-attention of tokens (B, N, D), as in Vaswani et al. 2017 (arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        projected: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return projected


class AttentionBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 pixels as tokens (B, N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of images (B, 3, S, S), row by row."""
        maps: Tensor = self.proj(images)
        return maps.flatten(2).transpose(1, 2)


class TinyViT(nn.Module):
    """A vision transformer of three blocks with a class token: images (B, 3, S, S) to features (B, 48)."""

    width: ClassVar[int] = 48

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, self.width))
        self.pos_embed = nn.Parameter(0.2 * torch.randn(1, 1 + (size // 4) ** 2, self.width))
        self.patch_embed = PatchEmbed(self.width)
        self.blocks = nn.Sequential(*(AttentionBlock(self.width) for _ in range(3)))
        self.norm = nn.LayerNorm(self.width)

    def forward(self, images: Tensor) -> Tensor:
        """The class token and the mean of the others, summed: random attention alone mixes too little."""
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        return tokens[:, 0] + tokens[:, 1:].mean(dim=1)


class TinyBackbones(BackboneFamily):
    """``testing/cnn`` and ``testing/vit``: of random weights, whatever weights are asked for."""

    def names(self) -> Sequence[str]:
        """Both."""
        return ["cnn", "vit"]

    def load(self, variant: str, *, weights: str, image_size: int | None) -> Pretrained:
        """Build one; ``pretrained`` and ``random`` are two different draws."""
        if variant not in self.names():
            raise UnknownNameError(f'Unknown backbone "testing/{variant}".')
        if weights not in ("pretrained", "random"):
            raise WeightsError(f'testing/{variant} has no weights "{weights}".')
        size = image_size or SIZE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1 if weights == "pretrained" else 2)
            trunk = TinyCNN() if variant == "cnn" else TinyViT(size)
            source_head = nn.Linear(trunk.width, 20)
        trunk.eval()
        parameters = [name for name, _ in trunk.named_parameters()]
        prefixes = [f"blocks.{index}." for index in range(len(trunk.blocks))]
        blocks = [[name for name in parameters if name.startswith(prefix)] for prefix in prefixes]
        stem = [name for name in parameters if name.startswith(("cls_token", "pos_embed", "patch_embed"))]
        blocks[-1] += [name for name in parameters if name.startswith("norm.")]
        groups = [(prefix.rstrip("."), names) for prefix, names in zip(prefixes, blocks, strict=True)]
        info = describe(
            f"testing/{variant}",
            trunk,
            weights=weights,
            inputs=ImageInput(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            groups=[*([("patch_embed", stem)] if stem else []), *groups],
            width=trunk.width,
            head="head",
        )
        return Pretrained(info, trunk, source_head.eval())


class TinyDigitsOptions(DatasetOptions):
    """Which of the digits.

    Attributes:
        first: where they begin.
        count: how many are looked at.
        classes: fewer than ten leave the higher digits out; of more than ten, up to thirty, each further ten
            are the digits in another colour.
        equal: whether classes are about as large as each other; else every second one has a third of that.
    """

    first: int = 0
    count: int = 300
    classes: int = 10
    equal: bool = True


class TinyDigits(DatasetSource[TinyDigitsOptions]):
    """``count`` of scikit-learn's handwritten digits from ``first`` on: 8 x 8 pixels, usually ten classes."""

    options = TinyDigitsOptions
    mirror = False

    def load(self, options: TinyDigitsOptions) -> Samples:
        """Items as uint8 arrays (8, 8), or (8, 8, 3) where there are colours."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        seen = [0] * max(10, options.classes)
        chosen: list[tuple[int, int]] = []
        for index in range(options.first, options.first + options.count):
            digit = int(digits.target[index])
            seen[digit] += 1
            label = digit + 10 * (seen[digit] % -(-options.classes // 10))
            thinned = not options.equal and label % 2 == 1 and (seen[digit] // 3) % 3 > 0
            if label < options.classes and not thinned:
                chosen.append((index, label))
        colours = options.classes > 10
        return Samples(
            items=[
                _coloured(images[index], label // 10) if colours else images[index] for index, label in chosen
            ],
            labels=[label for _, label in chosen],
            classes=tuple(
                f"{label % 10}{'abc'[label // 10]}" if colours else str(label)
                for label in range(options.classes)
            ),
            names=[f"digit {index}" for index, _ in chosen],
        )


def _coloured(image: NDArray[np.uint8], colour: int) -> NDArray[np.uint8]:
    """A grey image (8, 8) as (8, 8, 3) without one of red, green and blue."""
    pixels = np.repeat(image[:, :, None], 3, axis=2)
    pixels[:, :, colour] = 0
    return pixels


@dataclass(frozen=True, slots=True)
class TinyTask:
    """A real task of ten classes, ready for a tiny backbone.

    Attributes:
        inputs: (200, 3, 16, 16), model input.
        labels: (200,) int64.
        val_inputs: (100, 3, 16, 16).
        val_labels: (100,).
        classes: ten.
    """

    inputs: Tensor
    labels: Tensor
    val_inputs: Tensor
    val_labels: Tensor
    classes: int


def tiny_cnn() -> Pretrained:
    """A convolutional network of four groups with BatchNorm; a fresh one at each call."""
    return TinyBackbones().load("cnn", weights="pretrained", image_size=None)


def tiny_vit() -> Pretrained:
    """A vision transformer of four groups; a fresh one at each call."""
    return TinyBackbones().load("vit", weights="pretrained", image_size=None)


@functools.cache
@torch.inference_mode(False)  # whoever asks first: tensors of inference can't be trained on
def tiny_task() -> TinyTask:
    """300 handwritten digits at 16 pixels; not to be written to."""
    samples = TinyDigits().load(TinyDigitsOptions())
    inputs = tiny_cnn().info.inputs
    encoded = torch.from_numpy(np.stack([inputs.encode(item) for item in samples.items]))
    images, labels = inputs.to_model(encoded), torch.tensor(samples.labels)
    return TinyTask(images[:200], labels[:200], images[200:], labels[200:], CLASSES)


def score(logits: Tensor, labels: Tensor) -> Scores:
    """All metrics of classification: of logits (N, classes) against labels (N,)."""
    spec = TargetSpec(tuple(str(number) for number in range(logits.shape[1])))
    return registry.task("classification").score(logits, labels, spec)


@contextlib.contextmanager
def installed(
    *,
    strategies: Mapping[str, type[Strategy]] | None = None,
    backbones: Mapping[str, type[BackboneFamily]] | None = None,
    datasets: Mapping[str, type[DatasetSource[Any]]] | None = None,
    combinations: Mapping[str, type[Combination]] | None = None,
) -> Iterator[Path]:
    """Inside, ``testing/cnn``, ``testing/vit`` and ``testing_digits`` are installed, as any plugin is.

    Args:
        strategies: classes to install too, by name; other processes must be able to import their modules.
        backbones: likewise.
        datasets: likewise.
        combinations: likewise.

    Yields:
        The folder that is on the path, and must be on that of other processes.
    """
    tiny: _Points = {"backbones": {"testing": TinyBackbones}, "datasets": {DIGITS: TinyDigits}}
    more: _Points = {
        "strategies": strategies or {},
        "backbones": backbones or {},
        "datasets": datasets or {},
        "combinations": combinations or {},
    }
    with tempfile.TemporaryDirectory(prefix="tlsearch-testing-") as folder:
        # Two packages, since one of a name stands only once on the path and the first may be there already.
        for name, points in (("tlsearch_testing", tiny), ("tlsearch_under_test", more)):
            if any(points.values()):
                _write_metadata(Path(folder) / f"{name}-1.0.dist-info", name.replace("_", "-"), points)
        sys.path.append(folder)
        registry.forget()
        try:
            yield Path(folder)
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)
            registry.forget()


_Points = Mapping[str, Mapping[str, type[Any]]]


def _write_metadata(info: Path, name: str, points: _Points) -> None:
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for kind, classes in points.items():
        lines.append(f"[tlsearch.{kind}]")
        lines += [f"{entry} = {one.__module__}:{one.__qualname__}" for entry, one in classes.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def environment() -> dict[str, str]:
    """Environment of another Python process that can import what this one can."""
    path = os.pathsep.join(dict.fromkeys(entry or os.getcwd() for entry in sys.path))
    return {**os.environ, "PYTHONPATH": path}
