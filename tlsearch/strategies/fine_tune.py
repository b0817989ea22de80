"""Fine-tuning: the first groups keep their weights, the rest and a new head are trained."""

from __future__ import annotations

from tlsearch.contracts import FineTuning


class FineTune(FineTuning):
    """The public base as it is: ``freeze_depth`` 0 is full fine-tuning, 1 trains the head alone."""

    precedence = 10
    maps = True
