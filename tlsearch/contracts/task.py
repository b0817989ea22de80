"""What a task plugin implements: everything that depends on what a target is.

A class, a number, a set of labels, a mask: the core stores targets, splits items by them, trains, measures
and predicts, and asks the study's task wherever it matters what they are. What a task says of predictions
stands in `tlsearch.contracts.predictions`.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlsearch.contracts.metric import Metric
from tlsearch.contracts.predictions import Predictions
from tlsearch.contracts.recipe import API_VERSION, LinearRecipe, Recipe
from tlsearch.contracts.target import Strata, TargetSpec
from tlsearch.errors import SpecError, did_you_mean
from tlsearch.records import Scalar

EARLIEST = "classification"
"""The task of data sets, studies, audits and bundles that name none: once there was no other."""

Scores = Mapping[str, float]
"""Values by the names of a task's metrics."""


class Evaluator(abc.ABC):
    """Measures outputs that come a batch at a time."""

    @abc.abstractmethod
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch: outputs (B, ...) of any floating type, and targets (B, ...) as encoded."""

    @abc.abstractmethod
    def compute(self) -> Scores:
        """All metrics of what was taken."""

    def by_name(self, spec: TargetSpec) -> Scores:
        """A value for each of the spec's names that occurs: see `Task.per_name`."""
        return {}

    def calibration(self) -> Mapping[str, Any]:
        """What a model is to remember of it, as JSON holds it, where its task can't keep all outputs.

        See `Task.calibrate`, which is given all outputs.
        """
        return {}


class Task(Predictions):
    """What is learned. Its entry point's name is the study file's ``task``."""

    api_version: ClassVar[int] = API_VERSION
    """The version of the contracts that it was written for; the current one, unless it pins another."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What a study may optimize; the first is the default."""
    tie_breaker: ClassVar[str]
    """Name of the metric that tells apart models of equal value."""
    at_once: ClassVar[int] = 1024
    """Items whose outputs may stand in memory at the same time."""
    resize: ClassVar[str | None] = None
    """How pictures become squares, in the words of ``data.resize``; None leaves it to the study."""
    whole: ClassVar[bool] = False
    """Whether a target tells of all that a picture shows: ``init`` proposes no ``resize`` that cuts off."""
    examples: ClassVar[Sequence[Any]] = ()
    """Raw targets of a few dozen items, of which a data set could consist: for the contract's tests."""

    # What targets are

    def claim(self, targets: Sequence[Any]) -> tuple[float, str]:
        """How well raw targets suit the task, from 0 to 1, and why, for a study file that is proposed.

        The task of the strongest claim is proposed; 0 proposes nothing. An empty reason needs no telling.
        """
        return 0.0, ""

    def advised(self, counts: Mapping[str, int]) -> tuple[str, str]:
        """The metric to propose for items of so many of each kind, and why."""
        return self.metrics[0].name, f"else {', '.join(metric.name for metric in self.metrics[1:])}"

    def unusable(self, targets: Sequence[Any] | NDArray[Any]) -> Mapping[int, str]:
        """Raw targets that can't be learned from, by position, and why: their items are set aside.

        Raises:
            DataError: hardly one can be learned from, so that it is no matter of single items.
        """
        return {}

    @abc.abstractmethod
    def describe(self, targets: Sequence[Any] | NDArray[Any], columns: Sequence[str] = ()) -> TargetSpec:
        """What raw targets are, where their data set doesn't say.

        Args:
            targets: of all items; where there are several columns, tuples or rows.
            columns: what the data calls the columns, where it does.

        Raises:
            DataError: nothing can be learned of such targets.
        """

    @abc.abstractmethod
    def encode(self, targets: Sequence[Any] | NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
        """Targets, raw or as `plain` gives them, as an array (N, ...): what batches are made of.

        Raises:
            DataError: one isn't what ``spec`` says.
        """

    @abc.abstractmethod
    def plain(self, target: Any, spec: TargetSpec) -> Any:
        """An encoded target as JSON holds it: what identifies it in a fingerprint, and what people read."""

    def identity(self, target: Any, spec: TargetSpec) -> str:
        """An encoded target as a short text, equal for equal targets."""
        plain = self.plain(target, spec)
        return plain if isinstance(plain, str) else json.dumps(plain)

    def shown(self, target: Any, spec: TargetSpec) -> Any:
        """An encoded target as an audit tells it: `plain`, unless that is long."""
        return self.plain(target, spec)

    @abc.abstractmethod
    def strata(self, targets: NDArray[Any], spec: TargetSpec) -> Strata:
        """Kinds of items by which splits are cut, counted and audited."""

    def findings(self, counts: Mapping[str, Mapping[str, int]], metric: str) -> Mapping[str, Any]:
        """What an audit is to say of the targets, as JSON holds it.

        Args:
            counts: items by split and name of their kind.
            metric: the study's.
        """
        return {}

    def remarks(self, findings: Mapping[str, Any]) -> list[str]:
        """What of an audit's findings is worth a sentence before the search."""
        return []

    # How they are learned

    losses_by_name: ClassVar[tuple[str, ...]] = ()
    """Names that a recipe's ``loss`` may have, the usual one first; several are searched."""
    smooths: ClassVar[bool] = False
    """Whether `loss` does anything with a recipe's ``label_smoothing``; else it is 0 and not searched."""

    fixed: ClassVar[Mapping[str, Scalar]] = {}
    """Hyperparameters that have these values where a strategy has one of that name and a study is silent."""

    least_stop_items: ClassVar[int] = 0
    """Items of the stop split below which they tell epochs apart by chance alone: the last epoch is kept."""

    def fitted(self, spec: TargetSpec) -> Task:
        """The task as it learns such targets, with weights by how often each occurs, say; or itself."""
        return self

    def counted(self, targets: NDArray[Any], spec: TargetSpec) -> Task:
        """The task as it learns from these training targets: it may weigh rare ones. Itself by default."""
        return self

    def balances(self, metric: str) -> tuple[str, ...]:
        """What a recipe's ``balance`` may be with that metric, the usual one first; one alone isn't searched.

        Of heads, which are fitted to whole sets of features, nothing is drawn: see `drawn`.
        """
        return ()

    def sampling_weights(self, targets: NDArray[Any], balance: str) -> NDArray[Any] | None:
        """How often each item (N,) is to be drawn into batches, relative to others; None for equally."""
        return None

    @abc.abstractmethod
    def head(self, width: int, spec: TargetSpec, *, dropout: float = 0.0) -> nn.Module:
        """A fresh head: features (B, width) to outputs."""

    @abc.abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | LinearRecipe) -> Tensor:
        """Mean loss of a batch, a scalar, that can be differentiated."""

    def distillation(self, outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """How far outputs (B, ...) are from those of a teacher for the same items: a scalar, as `loss` is.

        Without it, no small network can be made of a finished model of this task.

        Args:
            outputs: of the network that learns.
            taught: the teacher's.
            temperature: divides logits of both, where outputs are logits: it weighs the less likely answers.
        """
        raise TypeError(f"{type(self).__name__} doesn't compare outputs with a teacher's")

    def mix(self, targets: Tensor, partners: Tensor, share: float, spec: TargetSpec) -> Tensor:
        """Targets of inputs that were blended: ``share`` of each, and the rest of its partner's.

        Raises:
            ValueError: such targets can't be blended.
        """
        if not targets.is_floating_point():
            raise ValueError(f"mixup blends targets, which {type(self).__name__} can't")
        return targets.lerp(partners, 1 - share)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean losses (H,) of H models at once, not regularized: outputs (N, C, H), targets (N, ...)."""
        recipe = LinearRecipe(learning_rate=0.0)
        return torch.stack([self.loss(each, targets, recipe) for each in outputs.unbind(dim=-1)])

    def stop_losses(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """What tells when H heads are best, as `losses`; weighted as each head's loss where that is."""
        return self.losses(outputs, targets)

    def columns(self, targets: Tensor, spec: TargetSpec) -> Tensor:
        """Targets as numbers (N, K), float64, to which a ridge regression can be fitted."""
        return targets.double().reshape(len(targets), -1)

    def moved(self, before: Tensor, after: Tensor) -> float:
        """How far outputs (N, K) moved, by their standard deviation; inf where another thing is predicted."""
        return float((before - after).abs().max() / before.std())

    def output_gradient(self, outputs: Tensor, targets: Tensor, recipes: Sequence[LinearRecipe]) -> Tensor:
        """The gradient of the losses of H heads at their outputs (B, C, H), of the same shape.

        It may be written over the outputs. A closed form is quicker than this one, by autograd.
        """
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            pairs = zip(leaf.unbind(dim=-1), recipes, strict=True)
            total = torch.stack([self.loss(each, targets, recipe) for each, recipe in pairs]).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        return gradient

    # How good it is

    def constant(self, targets: NDArray[Any], spec: TargetSpec) -> tuple[str, Tensor] | None:
        """The one answer for all items that a model must be better than: in words, and as outputs (1, ...).

        Args:
            targets: encoded, of the training items.
            spec: what they are.

        Returns:
            None where no answer could be that of all items.
        """
        return None

    @abc.abstractmethod
    def evaluator(self, spec: TargetSpec) -> Evaluator:
        """A fresh evaluator, which computes all metrics."""

    def score(self, outputs: Tensor, targets: Tensor, spec: TargetSpec) -> Scores:
        """All metrics of outputs (N, ...) against encoded targets (N, ...)."""
        evaluator = self.evaluator(spec)
        evaluator.update(outputs, targets)
        return evaluator.compute()

    def score_calibrated(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> Scores:
        """All metrics of a model as it predicts, with what its calibration says of prior and thresholds."""
        return self.score(outputs, targets, spec)

    def evaluate(
        self, outputs: Tensor, targets: Tensor, spec: TargetSpec, calibration: Mapping[str, Any]
    ) -> tuple[Scores, Scores]:
        """What a user is told of a finished model: its metrics, calibrated ones too, and one by name.

        The second is for each of the spec's names that occurs, such as a class's recall: see `per_name`.
        """
        return self.score(outputs, targets, spec), {}

    def evaluate_batches(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        spec: TargetSpec,
        calibration: Mapping[str, Any],
    ) -> tuple[Scores, Scores]:
        """The same of outputs and targets that come a batch at a time."""
        outputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return self.evaluate(outputs, targets, spec, calibration)

    def metric(self, name: str) -> Metric:
        """The metric of that name; the default where it is empty.

        Raises:
            SpecError: there is none.
        """
        known = {metric.name: metric for metric in self.metrics}
        if name and name not in known:
            raise SpecError(
                f'objective.metric: there is no metric "{name}" here. {did_you_mean(name, known)}'.strip(),
                hint=f"Metrics: {', '.join(known)}.",
            )
        return known[name] if name else self.metrics[0]

    def rank(self, scores: Scores, metric: str) -> tuple[float, float]:
        """A key that is larger for the better of two models; ties are told apart by ``tie_breaker``."""
        first, second = self.metric(metric), self.metric(self.tie_breaker)
        return first.signed(scores[first.name]), second.signed(scores[second.name])
