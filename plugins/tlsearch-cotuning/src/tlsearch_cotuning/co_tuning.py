"""Co-Tuning: the source classifier is tuned too, on source labels that the target's labels stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import Backbone, BackboneInfo, Batch, Space, opaque
from tlsearch.records import Params
from tlsearch_cotuning.taught import Taught, classifier, has_classifier

STRENGTHS = (0.0, 0.1, 0.5, 1.0, 2.3, 5.0)


class TwoHeads(nn.Module):
    """The target's head and the source's, and how the classes of both go together.

    ``relation`` (classes, source classes) sums the untrained source network's predictions by the target's
    labels: its rows, normalized, are p(y_s | y_t). The loss, which knows the labels, adds to it.
    """

    relation: Tensor

    def __init__(
        self, head: nn.Module, source: nn.Module, judge: nn.Module, width: int, classes: int
    ) -> None:
        super().__init__()
        self.head, self.source, self.judge = head, source, judge
        with torch.no_grad():
            answers: Tensor = judge.eval()(torch.zeros(1, width))
        self.register_buffer("relation", torch.zeros(classes, answers.shape[1]))

    def forward(self, features: Tensor, source_features: Tensor) -> tuple[Tensor, ...]:
        """Logits, source logits, the source network's own probabilities of source classes, the relation."""
        with torch.no_grad():
            judged = functional.softmax(self.judge(source_features).float(), dim=1)
        return self.head(features), self.source(features), judged, self.relation


class CoTuning(Taught):
    """Fine-tuning of target and source classifier together (You et al. 2020).

    loss = CE(y_t) + strength * CE(p(y_s | y_t), source classifier), with p(y_s | y_t) the mean of the source
    network's predictions for training items of class y_t (NeurIPS 2020, the direct approach).
    """

    tasks = ("classification",)

    precedence = 40

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters and the strength; zero alone where the backbone has no classifier."""
        strengths = STRENGTHS if has_classifier(backbone) else STRENGTHS[:1]
        return {**super().space(backbone), "strength": CategoricalDistribution(strengths)}

    def default(self, backbone: BackboneInfo) -> Params:
        """The paper's strength."""
        return {**super().default(backbone), "strength": 2.3 if has_classifier(backbone) else 0.0}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """The paper's strength, and a small one for targets unlike the source."""
        default = self.default(backbone)
        return [default, {**default, "strength": 0.1}] if has_classifier(backbone) else [default]

    def taught_head(self, model: Backbone, params: Params) -> nn.Module:
        """Looked at as a whole: what trains in it keeps the relation out of the stored prefix."""
        source, judge = classifier(model, trains=True), classifier(model, trains=False)
        return opaque(TwoHeads(model.head, source, judge, model.info.width, model.outputs))

    def term(self, outputs: Sequence[Tensor], batch: Batch, params: Params) -> Tensor:
        """Cross-entropy to the source labels; the batch's own predictions count from now on."""
        logits, judged, relation = outputs
        targets = batch.targets
        if targets.ndim == 1:
            targets = functional.one_hot(targets, len(relation))
        targets = targets.to(judged.dtype)
        with torch.no_grad():
            relation += targets.T @ judged
            wanted = targets @ (relation / relation.sum(dim=1, keepdim=True).clamp_min(1e-12))
        return functional.cross_entropy(logits, wanted)

    def param_groups(self, model: Backbone, params: Params) -> list[dict[str, Any]]:
        """The source classifier, which isn't new, at the trunk's rate."""
        groups = super().param_groups(model, params)
        if not isinstance(model.head, TwoHeads):
            return groups
        known = {id(parameter) for parameter in model.head.source.parameters()}
        rate = self.recipe(params).learning_rate
        split = []
        for group in groups:
            old = [parameter for parameter in group["params"] if id(parameter) in known]
            new = [parameter for parameter in group["params"] if id(parameter) not in known]
            split += [{**group, "params": new}, {**group, "params": old, "lr": rate}]
        return [group for group in split if group["params"]]
