"""Knowledge distillation: the model goes on answering as the source network does."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn
from torch.nn import functional

from tlsearch.contracts import Backbone, BackboneInfo, Batch, Space, number
from tlsearch.records import Params
from tlsearch_cotuning.taught import Taught, classifier, has_classifier

STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)


class Beside(nn.Module):
    """The target's head; returns beside its logits what a frozen reader says of both networks' features."""

    def __init__(self, head: nn.Module, reader: nn.Module) -> None:
        super().__init__()
        self.head, self.reader = head, reader

    def forward(self, features: Tensor, source_features: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, classes), then the reading of features and of source features."""
        return self.head(features), self.reader(features), self.reader(source_features)


class Distillation(Taught):
    """Fine-tuning with the source network as teacher.

    ``logits``: T^2 KL of both networks' source logits at temperature T (Hinton et al. 2015, arXiv:1503.02531;
    for transfer Li and Hoiem 2016, arXiv:1606.09282), read off by the frozen source classifier.
    ``features``: squared distance of the features, each scaled to length 1 (a hint as in Romero et al. 2015,
    arXiv:1412.6550, normalized as in Zagoruyko and Komodakis 2017, arXiv:1612.03928).
    """

    tasks = ("classification",)

    def space(self, backbone: BackboneInfo) -> Space:
        """Fine-tuning's hyperparameters, what is distilled, how much; only features without a classifier."""
        teachers = ["features", "logits"] if has_classifier(backbone) else ["features"]
        temperature = {"logits.temperature": FloatDistribution(1.0, 8.0, log=True)}
        return {
            **super().space(backbone),
            "strength": CategoricalDistribution(STRENGTHS),
            "teacher": CategoricalDistribution(teachers),
            **(temperature if has_classifier(backbone) else {}),
        }

    def default(self, backbone: BackboneInfo) -> Params:
        """Features: every backbone has them."""
        return {**super().default(backbone), "strength": 0.1, "teacher": "features"}

    def starts(self, backbone: BackboneInfo) -> Sequence[Params]:
        """Features, and logits at the temperature of Li and Hoiem where there are any."""
        default = self.default(backbone)
        logits = {**default, "teacher": "logits", "logits.temperature": 2.0}
        return [default, logits] if has_classifier(backbone) else [default]

    def taught_head(self, model: Backbone, params: Params) -> nn.Module:
        """The reader is the source classifier, or nothing."""
        by_logits = params["teacher"] == "logits"
        return Beside(model.head, classifier(model, trains=False) if by_logits else nn.Identity())

    def term(self, outputs: Sequence[Tensor], batch: Batch, params: Params) -> Tensor:
        """Distance of the model's answers from the source network's."""
        own, teacher = (output.float() for output in outputs)
        if params["teacher"] == "features":
            apart = functional.normalize(own, dim=1) - functional.normalize(teacher, dim=1)
            return apart.square().sum(dim=1).mean()
        temperature = number(params, "logits.temperature")
        own, teacher = (functional.log_softmax(logits / temperature, dim=1) for logits in (own, teacher))
        return temperature**2 * functional.kl_div(own, teacher, reduction="batchmean", log_target=True)
