"""RanPAC: ridge regression on a random ReLU projection of the features, in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import BackboneInfo, HeadPoint, HeadStrategy, HeadTask, Space, number
from tlsearch.records import Params

STRENGTHS = torch.logspace(-6, 3, 19, dtype=torch.float64)
"""Ridge strengths to choose among, in units of the projected features' mean eigenvalue."""
SHARPNESS = torch.logspace(-1, 2, 61, dtype=torch.float64)
ROWS = 4096
"""Items projected at once, and at most as many predictions kept to scale the logits by."""


class RandomRidge(nn.Module):
    """Features (B, D) to logits (B, classes): standardize, project, ReLU, one linear map."""

    mean: Tensor
    scale: Tensor
    projection: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, classes: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("projection", torch.zeros(width, size))
        self.register_buffer("weight", torch.zeros(classes, size))
        self.register_buffer("bias", torch.zeros(classes))

    def project(self, features: Tensor) -> Tensor:
        """Projected features (B, size), none negative."""
        return functional.relu((features - self.mean) / self.scale @ self.projection)

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        return functional.linear(self.project(features), self.weight, self.bias)


class RanPAC(HeadStrategy):
    """Ridge on relu(x P), P random normal (McDonnell et al. 2023, arXiv:2307.02251)."""

    tasks = ("classification",)

    def space(self, backbone: BackboneInfo) -> Space:
        """Size of the projection, and whether features are standardized before it."""
        return {
            "size": IntDistribution(256, 4096, log=True),
            "features": CategoricalDistribution(["raw", "standardized"]),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """A projection larger than most backbones' width, of features as they are, as in the paper."""
        return {"size": 2048, "features": "raw"}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The default; the same on standardized features."""
        default = self.default(backbone)
        return [default, {**default, "features": "standardized"}]

    def head(self, width: int, classes: int, params: Params) -> nn.Module:
        """An unfitted one."""
        return RandomRidge(width, classes, int(number(params, "size")))

    def fit_heads(self, task: HeadTask, points: Sequence[HeadPoint]) -> list[nn.Module]:
        """Each point draws its projection from its own seed."""
        features = task.features[0]
        mean, scale = features.mean(dim=0), features.std(dim=0)
        # A feature that is constant but for rounding tells nothing, and must not where it isn't constant.
        scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)
        heads: list[nn.Module] = []
        for point in points:
            size = int(number(point.params, "size"))
            head = RandomRidge(features.shape[1], task.classes, size).to(features.device)
            if point.params["features"] == "standardized":
                head.mean, head.scale = mean.clone(), scale.clone()
            drawn = torch.randn(head.projection.shape, generator=torch.Generator().manual_seed(point.seed))
            head.projection = drawn.to(features.device) / features.shape[1] ** 0.5
            _fit(head, features, functional.one_hot(task.labels, task.classes).float())
            heads.append(head)
        return heads


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """Of the centred projected features H (N, size): eigenvalues (R,) and eigenvectors (size, R) of H'H.

    ``moments`` (R, classes) are vectors' H'Y, ``centre`` and ``priors`` the means of H and of the targets.
    """

    values: Tensor
    vectors: Tensor
    moments: Tensor
    centre: Tensor
    priors: Tensor


@torch.no_grad()
def _fit(head: RandomRidge, features: Tensor, targets: Tensor) -> None:
    """Set weight and bias: least leave-one-out error among the strengths, then least log-loss by scale."""
    spectrum = _spectrum(head, features, targets)
    strengths = STRENGTHS.to(features.device) * spectrum.values.mean().clamp_min(1e-12)
    shrunk = spectrum.moments / (spectrum.values + strengths[:, None])[:, :, None]  # (strengths, R, classes)
    factors = 1 / (spectrum.values + strengths[:, None])
    squares, freedom = torch.zeros_like(strengths), torch.zeros_like(strengths)
    sample, answers, every = [], [], -(-len(features) // ROWS)
    for projected, wanted in _chunks(head, features, targets):
        rotated = (projected - spectrum.centre) @ spectrum.vectors
        leverage = rotated.square() @ factors.T + 1 / len(features)  # (rows, strengths)
        free = (1 - leverage).clamp_min(1e-4).T
        misses = (wanted - spectrum.priors - rotated @ shrunk) / free[:, :, None]
        squares += misses.square().sum(dim=(1, 2))
        freedom += (1 - leverage).sum(dim=0) / len(features)
        sample.append((wanted - misses)[:, ::every])
        answers.append(wanted[::every].argmax(dim=1))
    # Where the fit goes through every point, what is left out is told by rounding errors alone.
    squares[:-1][freedom[:-1] < 1e-3] = torch.inf
    best = int(squares.argmin())
    left_out, labels = torch.cat([part[best] for part in sample]), torch.cat(answers)
    scales = SHARPNESS.tolist()
    sharpness = min(scales, key=lambda by: float(functional.cross_entropy(by * left_out, labels)))
    weight = (spectrum.vectors @ shrunk[best]).T
    head.weight = (sharpness * weight).float()
    head.bias = (sharpness * (spectrum.priors - weight @ spectrum.centre)).float()


def _chunks(head: RandomRidge, features: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        yield head.project(features[rows]).double(), targets[rows].double()


def _spectrum(head: RandomRidge, features: Tensor, targets: Tensor) -> _Spectrum:
    """By the smaller of H'H and HH'."""
    count, size = len(features), head.projection.shape[1]
    priors = targets.double().mean(dim=0)
    if count <= size:
        projected = head.project(features).double()
        centre = projected.mean(dim=0)
        centred = projected - centre
        values, rows = torch.linalg.eigh(centred @ centred.T)
        kept = values > 1e-10 * values[-1].clamp_min(1e-12)
        values, rows = values[kept], rows[:, kept]
        vectors = centred.T @ rows / values.sqrt()
        moments = values.sqrt()[:, None] * (rows.T @ (targets.double() - priors))
        return _Spectrum(values, vectors, moments, centre, priors)
    gram = torch.zeros(size, size, dtype=torch.float64, device=features.device)
    cross = torch.zeros(size, targets.shape[1], dtype=torch.float64, device=features.device)
    total = torch.zeros(size, dtype=torch.float64, device=features.device)
    for projected, wanted in _chunks(head, features, targets):
        gram += projected.T @ projected
        cross += projected.T @ (wanted - priors)
        total += projected.sum(dim=0)
    centre = total / count
    values, vectors = torch.linalg.eigh(gram - count * torch.outer(centre, centre))
    return _Spectrum(values.clamp_min(0.0), vectors, vectors.T @ cross, centre, priors)
