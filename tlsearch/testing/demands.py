"""What contract tests demand of models, groups of parameters and tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tlsearch.contracts import Backbone
from tlsearch.counts import kind_of
from tlsearch.testing import fixtures
from tlsearch.testing.contract import demand

BACKBONES = (fixtures.CNN, fixtures.VIT)


def short_name(backbone: str) -> str:
    """What messages call a tiny backbone."""
    return {fixtures.CNN: "CNN", fixtures.VIT: "ViT"}[backbone]


def marks(model: Backbone) -> dict[str, bool]:
    """Whether each parameter trains, by name."""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def check_groups(model: Backbone, groups: list[dict[str, Any]], where: str) -> None:
    """Every trainable parameter stands in one optimizer group, which says its rate and decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [names.get(id(parameter), "a foreign one") for group in groups for parameter in group["params"]]
    trained = [name for name, trains in marks(model).items() if trains]
    if doubled := sorted(name for name in set(listed) if listed.count(name) > 1):
        raise AssertionError(f"param_groups() after {where} lists {doubled[0]} twice")
    if odd := sorted(set(trained).symmetric_difference(listed)):
        what = "leaves out" if odd[0] in trained else "lists, though it doesn't train,"
        raise AssertionError(f"param_groups() after {where} {what} {odd[0]}")
    for group in groups:
        for key in ("lr", "weight_decay"):
            demand(group.get(key, -1.0) >= 0, f"param_groups() after {where}: a group without {key}")


def check_logits(logits: object, rows: int, what: str, classes: int = fixtures.CLASSES) -> None:
    """Something is a finite tensor of logits (rows, classes)."""
    if not isinstance(logits, Tensor):
        raise AssertionError(f"{what} returns {kind_of(logits)}, not a tensor of logits")
    shape = (rows, classes)
    demand(tuple(logits.shape) == shape, f"{what} returns {tuple(logits.shape)}, not logits {shape}")
    demand(logits.is_floating_point(), f"{what} returns {logits.dtype}, not floating point logits")
    demand(bool(logits.isfinite().all()), f"{what} returns logits that aren't finite")


def difference(expected: Tensor, actual: Tensor) -> float:
    """The largest difference of two tensors, relative where they are larger than 1."""
    return float((expected - actual).abs().max() / max(1.0, float(expected.abs().max())))


def compare(expected: Tensor, actual: Tensor, what: str, tolerance: float) -> None:
    """Logits agree within a tolerance, relative where they are larger than 1."""
    demand(expected.shape == actual.shape, f"{what}: {tuple(expected.shape)} became {tuple(actual.shape)}")
    far = difference(expected, actual)
    demand(far <= tolerance, f"{what}: logits differ by {far:.1e}; {tolerance:g} is allowed")
