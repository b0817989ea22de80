"""Each item is of one class: logits (N, classes), and class indices (N,) as targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import (
    LinearHead,
    LinearRecipe,
    Metric,
    Recipe,
    Scores,
    Strata,
    TargetSpec,
    Task,
)
from tlsearch.contracts.verdict import NONE, UNSURE
from tlsearch.errors import DataError
from tlsearch.tasks import candidates, class_sizes, imbalance, temperature
from tlsearch.tasks.class_scores import ACCURACY, BALANCED, LOG_LOSS, MACRO_F1, ClassEvaluator

NAMED = 4
"""Candidates above which they aren't named in a line."""


class Classification(Task):
    """One class of several; softmax and cross-entropy.

    Args:
        counts: of each class's training items, where they are known and unequal: see `imbalance`.
    """

    metrics = (
        Metric(ACCURACY, proportion=True),
        Metric(BALANCED),
        Metric(MACRO_F1),
        Metric(
            LOG_LOSS,
            minimize=True,
            unit="nats",
            needs_probabilities=True,
            tolerance=lambda items: 1e-3,
            slack=0.1,
        ),
    )
    tie_breaker = LOG_LOSS
    probabilities = True
    smooths = True
    examples = tuple(str(number % 3) for number in range(42))

    def __init__(self, counts: Sequence[int] = ()) -> None:
        self._counts = tuple(counts)

    def claim(self, targets: Sequence[Any]) -> tuple[float, str]:
        """Any labels can be names; numbers are worth a word."""
        distinct = {str(target) for target in targets}
        if not all(name.lstrip("-").isdecimal() for name in distinct):
            return 0.5, ""
        return 0.5, f"{len(distinct)} whole numbers, taken as names; regression takes them as amounts"

    def advised(self, counts: Mapping[str, int]) -> tuple[str, str]:
        """Accuracy, but where classes are unequal."""
        return class_sizes.advised(counts)

    def describe(self, targets: Sequence[Any] | NDArray[Any], columns: Sequence[str] = ()) -> TargetSpec:
        """The class names that occur, sorted.

        Raises:
            DataError: there are several columns, or several names in a cell.
        """
        if any(isinstance(target, list) for target in targets):
            raise DataError(
                "An item is of one class, and the data lists several names for each.",
                hint="Say task: multilabel, or leave label_separator out.",
            )
        if len(columns) > 1:
            raise DataError(
                f"An item is of one class, and there are {len(columns)} columns: {', '.join(columns)}.",
                hint="Name one label_column; several columns of numbers are learned by task: regression, of "
                "0 and 1 by task: multilabel.",
            )
        return TargetSpec(tuple(sorted({str(target) for target in targets})))

    def encode(self, targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
        """Class indices (N,), int64; names become indices, and indices stay.

        Raises:
            DataError: a name that isn't among the classes.
        """
        index_of = {name: index for index, name in enumerate(spec.names)}
        unknown = sorted({one for one in targets if isinstance(one, str)} - set(index_of))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise DataError(
                f"The model doesn't know the class {unknown[0]!r}{more}.",
                hint=f"It knows: {', '.join(spec.names[:20])}",
            )
        found = [index_of[one] if isinstance(one, str) else one for one in targets]
        return np.asarray(found, dtype=np.int64)

    def plain(self, target: Any, spec: TargetSpec) -> str:
        """The class's name."""
        return spec.names[target]

    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """The classes."""
        return Strata([(int(target),) for target in targets], spec.names, "class", "classes")

    def findings(self, counts: Mapping[str, Mapping[str, int]], metric: str) -> Mapping[str, Any]:
        """How unequal the classes are, and which have few items."""
        return class_sizes.findings(counts, metric)

    def remarks(self, findings: Mapping[str, Any]) -> list[str]:
        """What unequal and tiny classes mean for scores."""
        return class_sizes.remarks(findings)

    def constant(self, targets: NDArray[Any], spec: TargetSpec) -> tuple[str, Tensor]:
        """The commonest class; logits are the classes' shares, one item of each added."""
        counts = np.bincount(targets, minlength=len(spec.names))
        words = f'always answering "{spec.names[counts.argmax()]}", the commonest class'
        return words, torch.from_numpy(np.log((counts + 1) / (counts.sum() + len(counts))))[None]

    def counted(self, targets: NDArray[Any], spec: TargetSpec) -> Classification:
        """With the classes' counts where the largest has three times the items of the smallest, or more."""
        return type(self)(class_sizes.unequal_counts(targets, len(spec.names)))

    def balances(self, metric: str) -> tuple[str, ...]:
        """Ways to make up for unequal classes, searched where the metric counts every class alike."""
        if not self._counts:
            return ()
        return imbalance.WAYS if metric in (BALANCED, MACRO_F1) else (imbalance.NONE,)

    def sampling_weights(self, targets: NDArray[Any], balance: str) -> NDArray[Any] | None:
        """Every class equally often."""
        if balance != imbalance.SAMPLING or not self._counts:
            return None
        return class_sizes.equally_often(targets)

    def head(self, width: int, spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """One linear layer: features (B, width) to logits (B, classes)."""
        return LinearHead(width, len(spec.names), dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Cross-entropy with label smoothing, weighted as the recipe's ``balance`` says.

        Targets may be rows of class probabilities (B, classes).
        """
        weights = imbalance.weights(self._counts, recipe.balance)
        if weights is None:
            return functional.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)
        each = functional.cross_entropy(
            outputs, targets, label_smoothing=recipe.label_smoothing, reduction="none"
        )
        by_class = each.new_tensor(weights)
        of = targets.to(by_class) @ by_class if targets.ndim > 1 else by_class[targets]
        return (each * of).mean()

    def distillation(self, outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Divergence of class probabilities, times the temperature's square (Hinton et al. 2015)."""
        own, wanted = ((logits / temperature).log_softmax(dim=1) for logits in (outputs, taught))
        return temperature**2 * functional.kl_div(own, wanted, reduction="batchmean", log_target=True)

    def mix(self, targets: Tensor, partners: Tensor, share: float, spec: TargetSpec) -> Tensor:
        """Weighted means of the one-hot labels."""
        rows = functional.one_hot(targets, len(spec.names)).float()
        others = functional.one_hot(partners, len(spec.names)).float()
        return rows.lerp(others, 1 - share)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Log-losses (H,) of logits (N, classes, H)."""
        expanded = targets.unsqueeze(1).expand(-1, outputs.shape[2])
        return functional.cross_entropy(outputs, expanded, reduction="none").mean(dim=0)

    def stop_losses(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """Log-losses (H,), each weighted as its head's loss."""
        weights = self._weights(outputs, targets, recipes)
        if weights is None:
            return self.losses(outputs, targets)
        expanded = targets.unsqueeze(1).expand(-1, outputs.shape[2])
        return (functional.cross_entropy(outputs, expanded, reduction="none") * weights).mean(dim=0)

    def _weights(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor | None:
        """Weights (B, H) of items for heads; None where all are 1."""
        by_class = class_sizes.weights_of_heads(self._counts, [recipe.balance for recipe in recipes])
        return None if by_class is None else outputs.new_tensor(by_class).T[targets]

    def columns(self, targets: Tensor, spec: TargetSpec) -> Tensor:
        """One-hot rows (N, classes)."""
        return functional.one_hot(targets.long(), len(spec.names)).double()

    def moved(self, before: Tensor, after: Tensor) -> float:
        """How far logits moved; inf where that changes a predicted class."""
        if bool((before.argmax(dim=1) != after.argmax(dim=1)).any()):
            return float("inf")
        return super().moved(before, after)

    def output_gradient(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """Softmax minus smoothed targets, weighted, over B: written over the logits (B, classes, H)."""
        count, classes, _ = outputs.shape
        smoothing = torch.tensor([recipe.label_smoothing for recipe in recipes], device=outputs.device)
        outputs -= outputs.amax(dim=1, keepdim=True)
        outputs.exp_()
        outputs /= outputs.sum(dim=1, keepdim=True)
        outputs -= smoothing / classes
        outputs[torch.arange(count, device=outputs.device), targets] -= 1 - smoothing
        outputs /= count
        weights = self._weights(outputs, targets, recipes)
        return outputs if weights is None else outputs.mul_(weights.unsqueeze(1))

    def evaluator(self, spec: TargetSpec) -> ClassEvaluator:
        """Of accuracy, balanced accuracy, macro F1 and log-loss."""
        return ClassEvaluator()

    def score_calibrated(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Scores:
        """The metrics of what is decided; log-loss of the network's own logits."""
        decided, _ = self.decode(outputs, spec, calibration)
        own = self.score(outputs, targets, spec)
        return {**self.score(decided, targets, spec), LOG_LOSS: own[LOG_LOSS]}

    def evaluate(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Scores, Scores]:
        """The metrics, log-loss and calibration error of calibrated probabilities, and classes' recalls."""
        decided, _ = self.decode(outputs, spec, calibration)
        right = decided.argmax(dim=1) == targets
        calibrated = _scaled(outputs, calibration)  # without a prior, it estimates nothing for these items
        metrics = {
            **self.score_calibrated(outputs, targets, spec, calibration),
            "calibrated_log_loss": self.score(calibrated, targets, spec)[LOG_LOSS],
            "calibration_error": temperature.expected_error(calibrated.softmax(dim=1), targets),
        }
        recalls = {
            name: float(right[targets == index].float().mean())
            for index, name in enumerate(spec.names)
            if bool((targets == index).any())
        }
        return metrics, recalls

    abstains = True
    unreadable = {
        "label": None,
        "probability": None,
        "verdict": None,
        "candidates": None,
        "distance": None,
        "probabilities": {},
    }
    answer_types = {
        "label": str,
        "probability": float,
        "verdict": Literal["sure", "unsure", "none of these"] | None,
        "candidates": list[str] | None,
        "distance": float | None,
        "probabilities": dict[str, float],
    }

    def average(self, outputs: Tensor) -> Tensor:
        """Logits (B, classes) whose softmax is the mean of that of logits (B, n, classes)."""
        if outputs.shape[1] == 1:
            return outputs[:, 0]
        return outputs.log_softmax(dim=2).logsumexp(dim=1) - math.log(outputs.shape[1])

    def scale(self, outputs: Tensor, targets: Tensor) -> float:
        """One over the temperature."""
        return 1 / temperature.fit(outputs, targets).temperature

    def calibrate(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """A temperature, and what it does."""
        return temperature.fit(outputs, targets).to_json()

    def rebalance(
        self, outputs: Tensor, targets: Tensor, calibration: Mapping[str, Any], metric: str
    ) -> Mapping[str, Any]:
        """A share of the classes' log-prior to take from logits, where classes count alike and it helps."""
        if metric not in (BALANCED, MACRO_F1):
            return {}
        return imbalance.prior(_scaled(outputs, calibration), targets)

    def check_calibration(
        self, outputs: Tensor, targets: Tensor, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Expected calibration errors with and without the temperature."""
        told = _scaled(outputs, calibration).softmax(dim=1)
        return {
            "test_items": len(targets),
            "test_error_before": temperature.expected_error(outputs.softmax(dim=1), targets),
            "test_error_after": temperature.expected_error(told, targets),
        }

    def decode(
        self, outputs: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Logits divided by the temperature, and class probabilities; both (N, classes).

        Where a log-prior is taken from the logits, both are as if all classes were equally frequent.
        """
        scaled = _scaled(outputs, calibration)
        if taken := calibration.get(imbalance.ADJUSTMENT):
            scaled = scaled - scaled.new_tensor(taken)
        return scaled, scaled.softmax(dim=1)

    def doubt(self, decoded: Tensor, targets: Tensor, *, missed: float) -> Mapping[str, Any]:
        """The least probability of a class in a conformal set."""
        return {"candidates": candidates.fit(decoded, targets, missed=missed)}

    def unsure(self, decoded: Tensor, calibration: Mapping[str, Any]) -> Tensor:
        """Items (N,) whose conformal set isn't one class."""
        held = candidates.candidates(decoded, calibration)
        return super().unsure(decoded, calibration) if held is None else held.sum(dim=1) != 1

    outputs = ("logits", "probabilities")
    meaning = "logits are already divided by the temperature"
    limits = "It knows no other classes: any image gets one of the above as its label."
    pipeline = "image-classification"

    def does(self, spec: TargetSpec) -> str:
        """It classifies."""
        return f"Classifies an image as one of {len(spec.names)} classes."

    def disagreement(
        self, expected: NDArray[Any], found: NDArray[Any], spec: TargetSpec, *, allowed: float
    ) -> tuple[float, str]:
        """Probabilities that are off, and items that get another class."""
        difference = float(np.abs(found - expected).max())
        rows = np.arange(len(expected))
        ours, theirs = expected.argmax(axis=1), found.argmax(axis=1)
        # Where two classes are as probable as each other, rounding may turn them round.
        margin = expected[rows, ours] - expected[rows, theirs]
        turned = np.flatnonzero((ours != theirs) & (margin > allowed))
        if not len(turned) and difference <= allowed:
            return difference, ""
        return difference, (
            f"{len(turned)} of {len(rows)} pictures get another class, and a probability is off by "
            f"{difference:.2g} (allowed: {allowed:g})"
        )

    def answers(self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]) -> list[str]:
        """The likeliest class of each item."""
        return [spec.names[index] for index in decoded.argmax(axis=1)]

    def predict(
        self, decoded: NDArray[Any], spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The likeliest class, its probability, its conformal set, and all probabilities, falling."""
        named = dict(zip(spec.names, decoded.tolist(), strict=True))
        ordered = dict(sorted(named.items(), key=lambda pair: -pair[1]))
        label = next(iter(ordered))
        told = {**self.unreadable, "label": label, "probability": ordered[label], "probabilities": ordered}
        held = candidates.candidates(torch.from_numpy(decoded[None]), calibration)
        if held is not None:
            named = dict(zip(spec.names, held[0].tolist(), strict=True))
            told["candidates"] = [name for name in ordered if named[name] or name == label]
        return told

    def shortened(self, prediction: Mapping[str, Any], top: int) -> Mapping[str, Any]:
        """With fewer probabilities."""
        return {**prediction, "probabilities": dict(list(prediction["probabilities"].items())[:top])}

    def say(self, prediction: Mapping[str, Any], *, top: int) -> str:
        """Classes and their probabilities, and what speaks against the first."""
        likely = list(prediction["probabilities"].items())[:top]
        told = ", ".join(f"{name} {share:.4f}" for name, share in likely)
        verdict, held = prediction.get("verdict"), prediction.get("candidates") or []
        if verdict == NONE:
            return f"{told} ({NONE})"
        if verdict == UNSURE:
            if len(held) > NAMED:
                return f"{told} ({UNSURE}: {len(held)} classes are possible)"
            why = " or ".join(held) if len(held) > 1 else "no class is probable enough"
            return f"{told} ({UNSURE}: {why})"
        return told

    def cells(self, prediction: Mapping[str, Any], spec: TargetSpec) -> list[tuple[str, Any]]:
        """The likeliest class, its probability, and the probability of every class."""
        shares = prediction["probabilities"]
        first = [(name, prediction.get(name)) for name in ("label", "probability", "verdict")]
        # The words before a class's name keep it apart from other columns, such as "label" and "error".
        return [*first, *((f"probability of {name}", shares.get(name)) for name in spec.names)]


def _scaled(logits: Tensor, calibration: Mapping[str, Any]) -> Tensor:
    return logits / float(calibration.get("temperature", 1.0))
