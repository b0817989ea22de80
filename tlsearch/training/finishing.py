"""The end of training: what a strategy's `finish` makes of a model is what is scored and handed out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tlsearch.contracts import Backbone, Scores, Strategy
from tlsearch.records import Params
from tlsearch.training.batch_source import BatchSource

PROBE = 32
"""Items whose outputs tell whether `finish` changed what the model says."""
ROUNDING = 1e-3
"""Outputs of merged layers differ by less, relative where they are larger than 1."""
SCORED_AGAIN = "; scored again, since the strategy's finish() changed the outputs"


def finish(
    strategy: Strategy, model: Backbone, params: Params, feed: BatchSource, scores: Scores
) -> tuple[Mapping[str, float], str]:
    """Finish a trained model in place, and answer the validation scores of what it then is.

    Args:
        strategy: of the trial.
        model: trained, in eval mode.
        params: the strategy's hyperparameters.
        feed: of the target data.
        scores: the trained model's on the validation split.

    Returns:
        The scores, those given unless the outputs changed by more than rounding, and a remark for the
        trial's record, empty if they did not.
    """
    if type(strategy).finish is Strategy.finish:  # it does nothing
        return scores, ""
    before = _outputs(model, feed)
    strategy.finish(model, params)
    model.eval()  # modules that it put in are new ones
    if _same(before, _outputs(model, feed)):
        return scores, ""
    return feed.evaluate("val", model, whole=True), SCORED_AGAIN


def _outputs(model: Backbone, feed: BatchSource) -> Tensor:
    batches = [outputs for outputs, _ in feed.outputs("val", model, whole=True, first=PROBE)]
    return torch.cat(batches) if batches else torch.empty(0)


def _same(before: Tensor, after: Tensor) -> bool:
    """Whether outputs agree but for rounding; what isn't finite agrees with nothing."""
    if before.shape != after.shape or not before.numel():
        return before.shape == after.shape
    far = torch.max((before - after).abs()) / max(1.0, float(before.abs().max()))
    return bool(far <= ROUNDING)
