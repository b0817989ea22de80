"""Each item has a set of labels, which may be empty: outputs (N, K) are logits, targets (N, K) 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import (
    Figure,
    LinearHead,
    LinearRecipe,
    Metric,
    Recipe,
    Scores,
    Strata,
    TargetSpec,
    Task,
)
from tlsearch.counts import plural
from tlsearch.errors import DataError
from tlsearch.tasks import class_sizes, label_figures, label_sets, temperature
from tlsearch.tasks.label_scores import (
    LOG_LOSS,
    MACRO_F1,
    MAP,
    MICRO_F1,
    SUBSET,
    USUAL,
    LabelEvaluator,
    average_precisions,
    best_thresholds,
)

BCE, WEIGHTED = "bce", "weighted_bce"
HEAVIEST = 20.0
"""The most that the loss of an item with a rare label is multiplied by, or divided for a frequent one."""
EMPTY = "(no label)"


class Multilabel(Task):
    """A set of labels; a sigmoid and binary cross-entropy for each.

    Args:
        weights: what the loss of an item that has the label is multiplied by, for each label, where the
            hyperparameter ``loss`` is ``weighted_bce``; 1 where there are none.
    """

    metrics = (
        Metric(MAP, tolerance=lambda items: 5 / max(1, items), title="mean average precision"),
        Metric(MACRO_F1, tolerance=lambda items: 5 / max(1, items)),
        Metric(MICRO_F1, tolerance=lambda items: 5 / max(1, items)),
        Metric(SUBSET, proportion=True, tolerance=lambda items: 5 / max(1, items)),
        Metric(LOG_LOSS, minimize=True, unit="nats", tolerance=lambda items: 1e-3, slack=0.1),
    )
    tie_breaker = LOG_LOSS
    whole = True
    losses_by_name = (BCE, WEIGHTED)
    examples = tuple([name for name in "abc" if (number + ord(name)) % 4 == 0] for number in range(42))
    per_name: ClassVar[str] = "average precision"
    unreadable = {"labels": None, "probabilities": {}}
    answer_types = {"labels": list[str], "probabilities": dict[str, float]}

    def __init__(self, weights: Sequence[float] = ()) -> None:
        self._weights = tuple(weights)

    # What targets are

    def claim(self, targets: Sequence[Any]) -> tuple[float, str]:
        """Lists of names, and rows of 0 and 1."""
        if not len(targets) or any(isinstance(target, str) for target in targets):
            return 0.0, ""
        rows = [target for target in targets if isinstance(target, list | tuple)]
        if len(rows) < len(targets) or label_sets.problems(rows):
            return 0.0, ""
        if all(label_sets.named(row) for row in rows):
            most = max(len(row) for row in rows)
            return 1.0, f"up to {plural(most, 'label')} for an item"
        return 1.0, f"{plural(len(rows[0]), 'column')} of 0 and 1"

    def unusable(self, targets: Sequence[Any] | NDArray[Any]) -> Mapping[int, str]:
        """Rows with a cell that is neither 0 nor 1.

        Raises:
            DataError: more than half of them are.
        """
        wrong = label_sets.problems(targets)
        if 2 * len(wrong) > len(targets):
            raise DataError(
                f"{len(wrong)} of {len(targets)} rows of labels can't be read; the first: "
                f"{next(iter(wrong.values()))}.",
                hint="Columns of labels hold 0 or 1; names in one column need label_separator.",
            )
        return wrong

    def describe(self, targets: Sequence[Any] | NDArray[Any], columns: Sequence[str] = ()) -> TargetSpec:
        """The labels and the share of items that have each: see `label_sets.described`.

        Raises:
            DataError: all items have a label, or none has it.
        """
        return label_sets.described(targets, columns)

    def encode(self, targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
        """0 and 1 (N, K), float32.

        Raises:
            DataError: an unknown label, a cell that is neither 0 nor 1, or more or fewer columns.
        """
        return label_sets.as_rows(targets, spec)

    def plain(self, target: Any, spec: TargetSpec) -> list[str]:
        """The names of the labels that it has, in the spec's order."""
        return [spec.names[at] for at in np.flatnonzero(np.asarray(target) > 0.5).tolist()]

    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """The labels; items that have none are a kind of their own. Every label must stand in train."""
        none = len(spec.names)
        of = [tuple(np.flatnonzero(row > 0.5).tolist()) or (none,) for row in np.asarray(targets)]
        empty = (EMPTY,) if (none,) in of else ()
        return Strata(
            of, (*spec.names, *empty), "label", "labels", required=False, trained=tuple(range(none))
        )

    def findings(self, counts: Mapping[str, Mapping[str, int]], metric: str) -> Mapping[str, Any]:
        """Labels of few items."""
        totals = class_sizes.totals_of(counts)
        tiny = [[name, count] for name, count in totals.items() if count < class_sizes.TINY and name != EMPTY]
        return {"labels": len(totals) - (EMPTY in totals), "tiny_labels": tiny}

    def remarks(self, findings: Mapping[str, Any]) -> list[str]:
        """What labels of few items mean for scores."""
        tiny = findings["tiny_labels"]
        return [class_sizes.few_items(len(tiny), tiny[0], "label", "labels")] if tiny else []

    # How they are learned

    def fitted(self, spec: TargetSpec) -> Self:
        """With the weights of the labels: items without it over items with it, at most 20, at least 1/20.

        All are 1 where a data set that describes its targets itself doesn't tell the ``share`` of each.
        """
        odds = [(1 - share) / share for share in spec.facts.get("share", ())]
        return type(self)([min(HEAVIEST, max(1 / HEAVIEST, one)) for one in odds])

    def head(self, width: int, spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """One linear layer: features (B, width) to logits (B, K)."""
        return LinearHead(width, len(spec.names), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Binary cross-entropy, with the labels' weights where the recipe's ``loss`` says so."""
        weights = self._weights_for(outputs) if recipe.loss == WEIGHTED else None
        return functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights)

    def distillation(self, outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Binary cross-entropy with the teacher's probabilities, times the temperature's square."""
        wanted = (taught / temperature).sigmoid()
        loss = functional.binary_cross_entropy_with_logits(outputs / temperature, wanted)
        return temperature**2 * loss

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropies (H,), without weights, of logits (N, K, H)."""
        wanted = targets.unsqueeze(2).expand_as(outputs)
        each = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        return each.mean(dim=(0, 1))

    def output_gradient(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """Probabilities minus targets, weighted, over B * K: written over the logits (B, K, H)."""
        wanted = targets.unsqueeze(2)
        outputs.sigmoid_()
        if any(recipe.loss == WEIGHTED for recipe in recipes):
            weighted = torch.tensor([recipe.loss == WEIGHTED for recipe in recipes], device=outputs.device)
            weights = torch.where(weighted, self._weights_for(outputs).unsqueeze(1), 1.0)
            outputs *= 1 + (weights - 1) * wanted
            outputs -= weights * wanted
        else:
            outputs -= wanted
        outputs /= outputs.shape[0] * outputs.shape[1]
        return outputs

    def _weights_for(self, outputs: Tensor) -> Tensor:
        """The labels' weights (K,) for logits (B, K, ...)."""
        return outputs.new_tensor(self._weights or [1.0] * outputs.shape[1])

    # How good it is

    def constant(self, targets: NDArray[Any], spec: TargetSpec) -> tuple[str, Tensor]:
        """Each label as often as it occurs; an item with it and one without are added."""
        shares = (targets.sum(axis=0, dtype=np.float64) + 1) / (len(targets) + 2)
        return "the same for every item: how common each label is", torch.from_numpy(shares).logit()[None]

    def evaluator(self, spec: TargetSpec) -> LabelEvaluator:
        """Of all metrics, at the thresholds that are best on the items it is given."""
        return LabelEvaluator()

    def score_calibrated(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Scores:
        """The metrics at the model's thresholds."""
        evaluator = LabelEvaluator(_thresholds(spec, calibration))
        evaluator.update(outputs, targets)
        return evaluator.compute()

    def evaluate(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Scores, Scores]:
        """The metrics at the model's thresholds, and the average precision of each label that occurs."""
        scores = self.score_calibrated(outputs, targets, spec, calibration)
        shares = outputs.double().sigmoid().cpu().numpy()
        found = average_precisions(shares, targets.double().cpu().numpy())
        return scores, {spec.names[at]: value for at, value in found.items()}

    # How it is used

    def average(self, outputs: Tensor) -> Tensor:
        """Logits (B, K) of the mean probability of logits (B, n, K)."""
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        held = functional.logsigmoid(outputs).logsumexp(dim=1)
        return held - functional.logsigmoid(-outputs).logsumexp(dim=1)

    def scale(self, outputs: Tensor, targets: Tensor) -> float:
        """One over the temperature that suits all labels together, each against its absence (logit 0)."""
        pairs = torch.stack([torch.zeros_like(outputs), outputs], dim=-1).reshape(-1, 2)
        return 1 / temperature.fit(pairs, targets.reshape(-1).long()).temperature

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """``thresholds`` of the labels' probabilities, of best F1, and how many ``items`` they rest on."""
        shares, true = outputs.double().sigmoid().cpu().numpy(), targets.double().cpu().numpy()
        return {"thresholds": best_thresholds(shares, true), "items": len(true)}

    def decode(
        self, outputs: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Logits, and each label's probability; both (N, K)."""
        return outputs, outputs.sigmoid()

    outputs = ("logits", "probabilities")
    meaning = "an image has a label where its probability is at least the label's threshold"
    pipeline = "image-classification"
    limits = "It knows no other labels, and decides on its own for any image, whatever the image shows."

    def does(self, spec: TargetSpec) -> str:
        """It tells labels."""
        return f"Predicts which of {plural(len(spec.names), 'label')} an image has."

    def trust(self, calibration: Mapping[str, Any]) -> str:
        """Where the thresholds come from."""
        if "thresholds" not in calibration:
            return (
                f"A label is predicted from a probability of {USUAL:g} on; probabilities are not calibrated."
            )
        return (
            f"Thresholds are those of best F1 of the search's winner on {calibration['items']} validation "
            "images; probabilities are not calibrated."
        )

    def beside(self, spec: TargetSpec, calibration: Mapping[str, Any]) -> Mapping[str, Any]:
        """``thresholds`` of the probabilities, in the order of the labels."""
        return {"thresholds": _thresholds(spec, calibration)}

    def predict(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``labels`` whose probability reaches their threshold, and all ``probabilities``, falling."""
        ordered = sorted(zip(spec.names, decoded.tolist(), strict=True), key=lambda pair: -pair[1])
        least = dict(zip(spec.names, _thresholds(spec, calibration), strict=True))
        return {
            "labels": [name for name, share in ordered if share >= least[name]],
            "probabilities": dict(ordered),
        }

    def answers(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> list[list[str]]:
        """The labels of each item, in the spec's order."""
        least = np.asarray(_thresholds(spec, calibration))
        return [self.plain(row >= least, spec) for row in decoded]

    def figures(
        self, decoded: NDArray[Any], targets: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Sequence[Figure]:
        """Each label's average precision, precision and recall; and which labels stand together."""
        thresholds = _thresholds(spec, calibration)
        return label_figures.figures(decoded.astype(np.float64), targets > 0.5, spec, thresholds)

    def shortened(self, prediction: Mapping[str, Any], top: int) -> Mapping[str, Any]:
        """With fewer probabilities."""
        return {**prediction, "probabilities": dict(list(prediction["probabilities"].items())[:top])}

    def say(self, prediction: Mapping[str, Any], *, top: int) -> str:
        """The labels with their probabilities; of none, the likeliest."""
        shares = prediction["probabilities"]
        if prediction["labels"]:
            return ", ".join(f"{name} {shares[name]:.4f}" for name in prediction["labels"])
        likely = ", ".join(f"{name} {share:.4f}" for name, share in list(shares.items())[:top])
        return f"no label ({likely})" if likely else "no label"

    def cells(self, prediction: Mapping[str, Any], spec: TargetSpec) -> list[tuple[str, Any]]:
        """1 or 0 for every label, then every label's probability."""
        told, shares = prediction["labels"], prediction["probabilities"]
        first = [(f"has {name}", None if told is None else int(name in told)) for name in spec.names]
        return [*first, *((f"probability of {name}", shares.get(name)) for name in spec.names)]


def _thresholds(spec: TargetSpec, calibration: Mapping[str, Any]) -> list[float]:
    found = calibration.get("thresholds")
    return [USUAL] * len(spec.names) if found is None else list(found)
