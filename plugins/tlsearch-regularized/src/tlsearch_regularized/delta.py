"""DELTA: features stay near those of the source network."""

from __future__ import annotations

from torch import Tensor

from tlsearch.contracts import Backbone, number
from tlsearch.records import Params
from tlsearch_regularized.strength import OnFeatures


class DELTA(OnFeatures):
    """Fine-tuning that keeps an image's features near those of the source network (Li et al. 2019).

    loss = CE + strength * mean over the batch of |f(x) - f0(x)|^2 (arXiv:1901.09229, section 3), here on the
    trunk's last features, all of equal weight.
    """

    strengths = {"strength": 1e-3}

    def prepare(self, model: Backbone, params: Params) -> None:
        """The source network runs beside the model; its features are stored like any frozen prefix."""
        super().prepare(model, params)
        if number(params, "strength") > 0:
            model.keep_source()

    def term(self, params: Params, *features: Tensor) -> Tensor:
        """Squared distance of features and source features, (B, width) each."""
        trained, source = features
        return (trained - source).square().sum(dim=1).mean()

    def finish(self, model: Backbone, params: Params) -> None:
        """Leave the source network behind."""
        super().finish(model, params)
        model.source_trunk = None
